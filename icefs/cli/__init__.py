"""The command line.

main            finds the command, runs it, turns errors into one line and an exit code
options         options, settings and argument types that several commands share
locations       reads `REPO`, `REPO@REF` and paths in a mount
repos           opens the repository and the version that a user typed
lineages        where the cache of histories lies on this machine
failing         errors of a command with `--json`
progress        the progress of a commit on a terminal, and Ctrl-C
steps           the progress of long work in this process
completing      completions for the Tab key
help            `icefs help` and `icefs completion`
manpages        help as text and as manual pages
mount           `icefs mount`
umount          `icefs umount`
mounts          finds the mount that a path lies in, and reads its control files
mount_helper    `mount.icefs` and `umount.icefs`, which mount(8) and umount(8) call
fstab           the `-o` options of mount(8) and fstab
serve           `icefs serve`: a mount in the foreground, for service managers
service_config  configuration files of mounts that run as services
install_units   `icefs install-units`: systemd's units and the mount helpers
leaving         what becomes of uncommitted changes when a mount ends
sessions        `icefs sessions`: the working trees of this machine
control         `icefs status` and `icefs refresh`
committing      `icefs commit`, `icefs discard`, `icefs rebase`
diff            `icefs diff`
diff_map        the changed chunks of arrays, drawn on their grids
warmup          `icefs warmup`
top             `icefs top` and `icefs log-level`
rates           rates, latencies and hit rates between two readings of a mount's numbers
doctor          `icefs doctor`
checks          the checks of `icefs doctor`
init            `icefs init`
info            `icefs info` and `icefs inspect`
read            `icefs ls` and `icefs cat`
chunk_map       the picture of an array's chunk grid
history         `icefs log`
graph           `icefs log --graph`
blame           `icefs blame`
refs            `icefs branch` and `icefs tag`
config          `icefs config`
transfer        `icefs import` and `icefs export`
upkeep          `icefs gc`, `expire`, `fsck`, `stats`, `upgrade`, `rewrite-manifests`
"""
