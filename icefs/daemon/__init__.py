"""The daemon: the process behind a mount.

spawn         starts daemons, in this process or in one that outlives the command
options       the options of a mount, as values that travel as JSON
prepare       checks them and opens the repository, before anything is mounted
serve         mounts, answers, unmounts
connect       the way to the kernel: native, or through pyfuse3
errno_map     errnos of errors, and the log of failed requests
background    work whose failure is logged
service       the state of the mount for the service manager, signals, reloads
live_options  the options in effect, of which a reload changes some
systemd       notifications to the service manager
mountinfo     the kernel's mount table
mountpoints   checks a mountpoint before anything is mounted
apart         checks that what a mount needs lies outside of it
earlier       files that programs have open in mounts that were detached
logs          the daemon's log: what a line looks like, and where it goes
log_files     log files: rotation and limits
repeats       log lines that repeat
redaction     secrets in log lines
journal       systemd's journal
metrics       `/metrics` for Prometheus, and `/healthz`
"""
