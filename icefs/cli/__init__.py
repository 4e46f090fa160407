"""The command line.

main          finds the command, runs it, turns errors into one line and an exit code
mount_helper  `mount.icefs` and `umount.icefs`, which mount(8) and umount(8) call
commands      the commands, imported when they are called
support       what several commands share: options, locations, mounts, pictures, progress
"""
