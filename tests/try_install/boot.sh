#!/bin/sh
# Boots the systemd of a Debian folder as PID 1 of namespaces of its own. Started by tests/try_install.
#
# usage: boot.sh STAGING PARENT_MOUNT_NAMESPACE
# STAGING has: root/ (the Debian), folders (folders of this machine to show inside, read-only, one a line).
set -eu
root=$1/root
[ "$(readlink /proc/self/ns/mnt)" != "$2" ] || { echo "not in a mount namespace of its own" >&2; exit 99; }
[ $$ = 1 ] || { echo "not PID 1 of a namespace" >&2; exit 99; }

mount --make-rprivate /
mount --bind "$root" "$root"
while read -r folder; do
    mkdir -p "$root$folder"
    mount --bind "$folder" "$root$folder"
    mount -o remount,bind,ro "$root$folder"
done < "$1/folders"

mount -t tmpfs -o mode=0755 tmpfs "$root/dev"
for node in null:1:3 zero:1:5 full:1:7 random:1:8 urandom:1:9 tty:5:0; do
    name=${node%%:*}; numbers=${node#*:}
    mknod -m 0666 "$root/dev/$name" c "${numbers%%:*}" "${numbers#*:}"
done
mkdir "$root/dev/pts" "$root/dev/shm"
mount -t devpts -o newinstance,ptmxmode=0666,mode=0620 devpts "$root/dev/pts"
mount -t tmpfs -o mode=1777 tmpfs "$root/dev/shm"
ln -s pts/ptmx "$root/dev/ptmx"
ln -s /proc/self/fd "$root/dev/fd"
for number in 0:stdin 1:stdout 2:stderr; do ln -s "/proc/self/fd/${number%:*}" "$root/dev/${number#*:}"; done

mount -t proc proc "$root/proc"
for name in sys sysrq-trigger; do
    [ -e "$root/proc/$name" ] || continue
    mount --bind "$root/proc/$name" "$root/proc/$name"
    mount -o remount,bind,ro "$root/proc/$name"
done
mount -t sysfs -o ro sysfs "$root/sys"
mount -t cgroup2 cgroup2 "$root/sys/fs/cgroup"
mount -t tmpfs -o mode=0755 tmpfs "$root/run"

cd "$root"
mkdir -p .old
pivot_root . .old
umount -l .old
rmdir .old
mount --make-rshared /
exec env -i container=unshare PATH=/usr/sbin:/usr/bin:/sbin:/bin \
    setpriv --bounding-set=-sys_module,-sys_rawio,-sys_time /lib/systemd/systemd --system
