"""What several commands share.

options         options, settings and argument types that several commands share
locations       reads `REPO`, `REPO@REF` and paths in a mount
repos           opens the repository and the version that a user typed
lineages        where the cache of histories lies on this machine
mounts          finds the mount that a path lies in, and reads its control files
service_config  configuration files of mounts that run as services
fstab           the `-o` options of mount(8) and fstab
remount         `mount -o remount,ro` and `remount,rw`
leaving         what becomes of uncommitted changes when a mount ends
checks          the checks of `icefs doctor`
failing         errors of a command with `--json`
progress        the progress of a commit on a terminal, and Ctrl-C
steps           the progress of long work in this process
rates           rates, latencies and hit rates between two readings of a mount's numbers
chunk_map       the picture of an array's chunk grid
diff_map        the changed chunks of arrays, drawn on their grids
graph           `icefs log --graph`
completing      completions for the Tab key
manpages        help as text and as manual pages
"""
