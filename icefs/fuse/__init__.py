"""The kernel's protocol: requests in, answers and invalidations out.

connection          what the daemon needs of a way to the kernel
device              the native way: mounts, talks, unmounts
pyfuse3_connection  the other way, through pyfuse3 and libfuse
abi                 the layout of requests and answers
loop                reads requests and has them answered
requests            each request: its arguments, its handler, its answer
operations          the handlers: the kernel's terms to the file system's
entries             attributes and directory entries in the kernel's layout
bare_entries        which readers get directory entries without attributes
errno_map           exceptions to errnos, and the boundary around every handler
interrupts          interrupts requests of programs that are being killed
linger              waits for a program's next request
notifier            sends invalidations, from a thread of its own
"""
