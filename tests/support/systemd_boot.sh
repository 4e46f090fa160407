#!/bin/bash
# Boots a real systemd in namespaces of its own; see systemd_machine.py, which has made the namespaces already.
#
#   systemd_boot.sh NEW_ROOT SHARED READ_ONLY_DIRECTORY...
#
# Its root is a tmpfs in which programs are bound read-only: nothing that it does can reach the real /etc, /tmp, /run
# or /var. SHARED is the one directory that is the same on both sides; SHARED/prepare, a script, runs before systemd.
set -euo pipefail
new=$1 shared=$2
shift 2
mount --make-rprivate /
mount -t tmpfs -o mode=755 tmpfs "$new"
cd "$new"
mkdir -p proc sys dev etc run tmp mnt srv root var/{lib,cache,log,tmp} home/ada
mount -t tmpfs -o mode=1777 tmpfs tmp
mount -t tmpfs -o mode=755 tmpfs run

show() { # DIRECTORY: binds it read-only
    mkdir -p ".$1"
    mount --bind "$1" ".$1"
    mount -o remount,ro,bind ".$1"
}
for name in usr bin sbin lib lib32 lib64 libx32; do
    if [ -L "/$name" ]; then ln -s "$(readlink "/$name")" "$name"; elif [ -d "/$name" ]; then show "/$name"; fi
done
for directory in "$@"; do show "$directory"; done
mkdir -p ".$shared"
mount --bind "$shared" ".$shared"

# Where `icefs install-units` puts helpers, manual pages and completions.
for name in usr/sbin usr/local/share; do
    mount -t tmpfs -o mode=755 tmpfs $name
    cp -a "/$name/." $name/
done

# Of the real /etc what programs need to run at all; units of the machine around us stay outside.
for name in passwd group nsswitch.conf ld.so.cache ld.so.conf ld.so.conf.d alternatives ssl; do
    [ ! -e "/etc/$name" ] || cp -a "/etc/$name" etc/
done
echo 'ada:x:4711:4711::/home/ada:/bin/sh' >>etc/passwd
echo 'ada:x:4711:' >>etc/group
chown 4711:4711 home/ada
echo icefs-test >etc/hostname
echo 0123456789abcdef0123456789abcdef >etc/machine-id
ln -s ../proc/self/mounts etc/mtab
ln -s ../run var/run
mkdir -p etc/systemd/system

mount -t proc proc proc
mount --bind proc/sys proc/sys
mount -o remount,ro,bind proc/sys
mount --bind /sys sys
mount -o remount,ro,bind sys
mount -t cgroup2 cgroup2 sys/fs/cgroup
mount -t tmpfs -o mode=755 tmpfs dev
for name in null zero full random urandom tty; do
    touch "dev/$name"
    mount --bind "/dev/$name" "dev/$name"
done
mknod -m 666 dev/fuse c 10 229
mknod -m 600 dev/autofs c 10 235
mkdir dev/pts dev/shm
mount -t tmpfs -o mode=1777 tmpfs dev/shm
ln -s /proc/self/fd dev/fd
ln -s pts/ptmx dev/ptmx

# Of what a boot starts, the journal alone: the rest is about hardware, or about the machine around us.
units=usr/lib/systemd/system
for target in sysinit sockets timers local-fs remote-fs multi-user; do
    [ ! -d $units/$target.target.wants ] || mount -t tmpfs -o mode=755 tmpfs $units/$target.target.wants
done
ln -s ../systemd-journald.service $units/sysinit.target.wants/
ln -s ../systemd-journald.socket ../systemd-journald-dev-log.socket $units/sockets.target.wants/
for unit in systemd-remount-fs.service systemd-journald-audit.socket; do ln -s /dev/null etc/systemd/system/$unit; done
mkdir etc/systemd/system/multi-user.target.wants
ln -s /lib/systemd/system/remote-fs.target etc/systemd/system/multi-user.target.wants/
ln -s /lib/systemd/system/multi-user.target etc/systemd/system/default.target

mkdir old
pivot_root . old
cd /
umount -l /old
rmdir /old
export container=icefs-test PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
bash "$shared/prepare"
exec env -i container="$container" PATH="$PATH" /lib/systemd/systemd --system --log-target=journal-or-kmsg
