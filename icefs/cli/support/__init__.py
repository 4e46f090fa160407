"""What several commands share.

registry        the commands by name
exit_codes      exit codes, and what to do where an error gives no hint
options         settings, options, argument types and output that many commands share
mount_options   the options of `icefs mount`
service_config  configuration files of mounts that run as services
fstab           the `-o` options of mount(8) and fstab
remount         `mount -o remount,ro` and `remount,rw`
locations       reads `REPO`, `REPO@REF` and paths in a mount
repos           opens the repository and the version that a user typed
lineages        where the cache of histories lies on this machine
mounts          finds the mount that a path lies in, and reads its control files
conversation    a program's end of the control file `.icefs/rpc`
commits         commits of mounted branches: requests, errors, answers
working_trees   the working trees of this machine, without opening them
uncommitted     uncommitted changes that a command does not see
leaving         what becomes of uncommitted changes when a mount ends
refs            branches and tags: lists, changes, reports
snapshots       snapshots in lists and in JSON
described       nodes and keys in JSON
config_keys     the settings of a configuration, by dotted key
transfers       progress and lists of imports and exports
views           a view of a version, without a mount
view_listing    the files of a view, for the option `--view` of `icefs ls`
virtual_imports  the import of references
copied_imports   the import of values
bringing          what `merge`, `cherry-pick`, `revert` and `restore` have in common
exchanges       what `clone`, `pull` and `push` have in common
origins         where repositories were cloned from, on this machine
checks          the checks of `icefs doctor`
failing         errors of a command with `--json`
interrupts      Ctrl-C while threads wait for a store
progress        the progress of a commit on a terminal, and Ctrl-C
steps           the progress of long work in this process
rates           rates, latencies and hit rates between two readings of a mount's numbers
chunk_map       the picture of an array's chunk grid
diff_map        the changed chunks of arrays, drawn on their grids
graph           `icefs log --graph`
completing      completions for the Tab key
topics          the topics of `icefs help`
markdown        the topics' Markdown, and topics as text for a terminal
manpages        commands and topics as manual pages
"""
