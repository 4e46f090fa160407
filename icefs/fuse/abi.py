"""The kernel's side of FUSE: the layout of requests and answers, as numbers and structs.

    request       fuse_in_header, then what the operation takes: a struct of fixed size, then names, each ended by a NUL
    answer        fuse_out_header (length, negative errno or 0, the request's number), then what the operation gives
    notification  the same header with number 0 and a code in the place of the errno

Both directions go through `/dev/fuse`: one `read` takes one request whole, one `write` takes one answer whole.
Numbers are in the byte order of the machine.

Source: Linux, include/uapi/linux/fuse.h, protocol version 7.31 (Linux 5.4) and later.
"""

from struct import Struct
from typing import Final

MAJOR: Final = 7
MINOR: Final = 38
OLDEST_MINOR: Final = 31

ROOT_INO: Final = 1

# Requests.
LOOKUP: Final = 1
FORGET: Final = 2
GETATTR: Final = 3
SETATTR: Final = 4
READLINK: Final = 5
SYMLINK: Final = 6
MKNOD: Final = 8
MKDIR: Final = 9
UNLINK: Final = 10
RMDIR: Final = 11
RENAME: Final = 12
LINK: Final = 13
OPEN: Final = 14
READ: Final = 15
WRITE: Final = 16
STATFS: Final = 17
RELEASE: Final = 18
FSYNC: Final = 20
SETXATTR: Final = 21
GETXATTR: Final = 22
LISTXATTR: Final = 23
REMOVEXATTR: Final = 24
FLUSH: Final = 25
INIT: Final = 26
OPENDIR: Final = 27
RELEASEDIR: Final = 29
FSYNCDIR: Final = 30
ACCESS: Final = 34
CREATE: Final = 35
INTERRUPT: Final = 36
DESTROY: Final = 38
IOCTL: Final = 39
FALLOCATE: Final = 43
BATCH_FORGET: Final = 42
READDIRPLUS: Final = 44
RENAME2: Final = 45

# Notifications.
NOTIFY_INVAL_INODE: Final = 2
NOTIFY_INVAL_ENTRY: Final = 3

# What kernel and daemon agree on at INIT.
ASYNC_READ: Final = 1 << 0
ATOMIC_O_TRUNC: Final = 1 << 3
BIG_WRITES: Final = 1 << 5
AUTO_INVAL_DATA: Final = 1 << 12
DO_READDIRPLUS: Final = 1 << 13
ASYNC_DIO: Final = 1 << 15
PARALLEL_DIROPS: Final = 1 << 18
MAX_PAGES: Final = 1 << 22

# How an open file is used.
FOPEN_DIRECT_IO: Final = 1 << 0
FOPEN_KEEP_CACHE: Final = 1 << 1
FOPEN_NONSEEKABLE: Final = 1 << 2
FOPEN_NOFLUSH: Final = 1 << 5

# What SETATTR changes.
FATTR_MODE: Final = 1 << 0
FATTR_UID: Final = 1 << 1
FATTR_GID: Final = 1 << 2
FATTR_SIZE: Final = 1 << 3
FATTR_ATIME: Final = 1 << 4
FATTR_MTIME: Final = 1 << 5
FATTR_FH: Final = 1 << 6
FATTR_ATIME_NOW: Final = 1 << 7
FATTR_MTIME_NOW: Final = 1 << 8

FSYNC_FDATASYNC: Final = 1 << 0

IOCTL_DIR: Final = 1 << 4
"""The ioctl is one of a directory."""

# How bytes came to be written.
WRITE_CACHE: Final = 1 << 0
"""From the page cache, later: the program that wrote them does not wait for the answer."""

WRITE_KILL_SUIDGID: Final = 1 << 2
"""By a user whose writes take the file's set-user-ID and set-group-ID bits away."""

IN_HEADER: Final = Struct("=IIQQIIIHH")
"""length, opcode, unique, nodeid, uid, gid, pid, length of extensions, padding"""

OUT_HEADER: Final = Struct("=IiQ")
"""length, error, unique"""

INIT_IN: Final = Struct("=IIIII44x")
"""major, minor, max_readahead, flags, flags2"""

INIT_OUT: Final = Struct("=IIIIHHIIHHI28x")
"""major, minor, max_readahead, flags, max_background, congestion_threshold, max_write, time_gran, max_pages,
map_alignment, flags2"""

ATTR: Final = Struct("=QQQqqqIIIIIIIIII")
"""ino, size, blocks, atime, mtime, ctime, their nanoseconds, mode, nlink, uid, gid, rdev, blksize, flags"""

ENTRY_OUT: Final = Struct("=QQQQII" + ATTR.format[1:])
"""nodeid, generation, entry_valid, attr_valid, entry_valid_nsec, attr_valid_nsec, then the attributes"""

ATTR_OUT: Final = Struct("=QII" + ATTR.format[1:])
"""attr_valid, attr_valid_nsec, dummy, then the attributes"""

DIRENT: Final = Struct("=QQII")
"""ino, off, namelen, type; then the name, padded to 8 bytes. READDIRPLUS puts a fuse_entry_out before each."""

OPEN_OUT: Final = Struct("=QII")
"""fh, open_flags, padding"""

STATFS_OUT: Final = Struct("=QQQQQIII28x")
"""blocks, bfree, bavail, files, ffree, bsize, namelen, frsize"""

SETATTR_IN: Final = Struct("=IIQQQQqqIIIIIIII")
"""valid, padding, fh, size, lock_owner, atime, mtime, ctime, their nanoseconds, mode, unused, uid, gid, unused"""

FORGET_IN: Final = Struct("=Q")
"""nlookup"""

FORGET_ONE: Final = Struct("=QQ")
"""nodeid, nlookup"""

BATCH_FORGET_IN: Final = Struct("=II")
"""count, dummy"""

MKNOD_IN: Final = Struct("=IIII")
"""mode, rdev, umask, padding"""

MKDIR_IN: Final = Struct("=II")
"""mode, umask"""

RENAME_IN: Final = Struct("=Q")
"""newdir"""

RENAME2_IN: Final = Struct("=QII")
"""newdir, flags, padding"""

LINK_IN: Final = Struct("=Q")
"""oldnodeid"""

OPEN_IN: Final = Struct("=II")
"""flags, open_flags"""

CREATE_IN: Final = Struct("=IIII")
"""flags, mode, umask, open_flags"""

READ_IN: Final = Struct("=QQI")
"""fh, offset, size; more follows. READDIRPLUS takes the same."""

WRITE_IN: Final = Struct("=QQIIQII")
"""fh, offset, size, write_flags, lock_owner, flags, padding; then the bytes"""

WRITE_OUT: Final = Struct("=II")
"""size, padding"""

INTERRUPT_IN: Final = Struct("=Q")
"""unique, of the request that it is about"""

FH_IN: Final = Struct("=Q")
"""fh, with which RELEASE, RELEASEDIR and FLUSH begin"""

FSYNC_IN: Final = Struct("=QII")
"""fh, fsync_flags, padding"""

SETXATTR_IN: Final = Struct("=II")
"""size, flags; then the name and the value"""

FALLOCATE_IN: Final = Struct("=QQQII")
"""fh, offset, length, mode, padding"""

IOCTL_IN: Final = Struct("=QIIQII")
"""fh, flags, cmd, arg, in_size, out_size; then what the program's argument points to"""

IOCTL_OUT: Final = Struct("=iIII")
"""result, flags, in_iovs, out_iovs; then what goes where the program's argument points to"""

GETXATTR_IN: Final = Struct("=II")
"""size of the caller's buffer, padding; then the name. LISTXATTR takes the same, without a name."""

GETXATTR_OUT: Final = Struct("=II")
"""size, padding: what a buffer would need to hold"""

ACCESS_IN: Final = Struct("=II")
"""mask, padding"""

NOTIFY_INVAL_INODE_OUT: Final = Struct("=Qqq")
"""ino, off, len; a negative offset invalidates attributes alone, length 0 is all"""

NOTIFY_INVAL_ENTRY_OUT: Final = Struct("=QII")
"""parent, namelen, flags; then the name with a NUL"""
