"""The daemon: the process behind a mount.

spawn         starts daemons, in this process or in one that outlives the command
serve         the daemon's life: opens the repository, mounts, answers, unmounts
service       the state of the mount for service managers: systemd's notifications and watchdog
options       the options of a mount, as values that travel as JSON
mountpoints   checks a mountpoint before anything is mounted
apart         checks that what a mount needs lies outside of it
errno_map     errnos of errors, and the log of failed requests
connect       mounts: by the native connection to the kernel, or through pyfuse3
background    work whose failure is logged
earlier       files that programs have open in mounts that were detached
conversation  a program's end of the control file `.icefs/rpc`
logs          the daemon's log: its lines, where they go, and what they never hold
journal       systemd's journal
metrics       `/metrics` for Prometheus, and `/healthz`
"""
