"""The file system, without a kernel.

interface   what the layers of the file system ask of each other: files, directories, trees
attrs       attributes, and how long the kernel may keep them
mount       the whole: a mount, made of what was asked for
filesystem  requests: finds the tree of an inode number, and waits where trees may not
gauges      what of a mount is open, held and under way
handles     open files and directories
names       branch and tag names as file names, and back
headless    a working tree without a mount: committed, listed or exported
xattrs      extended attributes that say where a file's bytes come from
threads     worker threads that answer on the event loop's thread, and the pools of them
fetches     what has to be fetched before a question can be answered
inodes      inode numbers and times
chunks      chunk files: which exist, and reading them
trees       a snapshot as a tree of directories and files
branches    a branch: its tip, its snapshot tree, its working tree
refs        the directories `branches`, `tags` and `snapshots`, and following refs
views       trees in the formats of programs that read no Zarr v3
notes       notes about nodes that not every reader finds
commit      commits of working trees
control     the control directory `.icefs`
observe     counters, statistics, metrics and the access log
"""
