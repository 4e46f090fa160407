"""The kernel's protocol: requests in, answers and invalidations out.

connection          what the daemon needs of a way to the kernel
loop                the native way: reads requests, and sends answers
pyfuse3_connection  the other way, through pyfuse3 and libfuse
boundary            counts every request, and turns failures into errnos
requests            each request: its arguments, the file system's method, its answer
listings            requests that list directories
names               names in requests
device              mounts, carries messages, unmounts
abi                 the layout of requests and answers
entries             attributes and directory entries in the kernel's layout
bare_entries        which programs get directory entries without attributes
interrupts          interrupts requests of programs that are being killed
linger              waits for a program's next request
notifier            sends invalidations, from a thread of its own
"""
