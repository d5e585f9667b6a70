#!/bin/sh
# Runs systemd as PID 1 in namespaces of its own, on a root that it cannot write. Started by tests/systemd_day.
#
# usage: isolate.sh STAGING PARENT_MOUNT_NAMESPACE
# STAGING has: root/ (empty), files/ (copied to /opt/day), report/ (the only folder of the host that is writable inside).
#
# The root is a read-only bind of the host's. Everything that may be written is a new tmpfs: a service of systemd that
# empties /tmp, writes /etc or removes old files finds nothing of the host's.
set -eu
staging=$1
[ "$(readlink /proc/self/ns/mnt)" != "$2" ] || { echo "not in a mount namespace of its own" >&2; exit 99; }
[ $$ = 1 ] || { echo "not PID 1 of a namespace" >&2; exit 99; }
new=$staging/root

mount --make-rprivate /
mount --bind / "$new"
mount -o remount,bind,ro "$new"
for folder in tmp var run opt home root srv mnt media etc dev usr/local/bin; do
    [ -d "$new/$folder" ] && [ ! -L "$new/$folder" ] || continue
    mount -t tmpfs -o mode=0755,size=2g tmpfs "$new/$folder"
done
chmod 1777 "$new/tmp"
mkdir -p "$new/var/lib" "$new/var/log/journal" "$new/var/cache" "$new/var/report" "$new/run/systemd" "$new/opt/day"
mkdir -m 1777 "$new/var/tmp"
ln -s ../run "$new/var/run"

# /etc without the host's units, mounts and secrets.
for name in passwd group nsswitch.conf ld.so.conf ld.so.conf.d hosts host.conf localtime os-release machine-id; do
    [ ! -e "/etc/$name" ] || cp -aL "/etc/$name" "$new/etc/$name"
done
cp -a "$staging/files/." "$new/opt/day/"
cp -a "$staging/files/etc/." "$new/etc/"

# What the service runs: an interpreter and the packages it depends on, read-only.
. "$staging/files/paths"
for pair in "$base_python:$new/opt/python" "$packages:$new/opt/packages"; do
    mkdir -p "${pair#*:}"
    mount --bind "${pair%%:*}" "${pair#*:}"
    mount -o remount,bind,ro "${pair#*:}"
done
mv "$new/opt/day/catalyst" "$new/opt/catalyst"

for node in null:1:3 zero:1:5 full:1:7 random:1:8 urandom:1:9 tty:5:0; do
    name=${node%%:*}; numbers=${node#*:}
    mknod -m 0666 "$new/dev/$name" c "${numbers%%:*}" "${numbers#*:}"
done
mkdir "$new/dev/pts" "$new/dev/shm"
mount -t devpts -o newinstance,ptmxmode=0666,mode=0620 devpts "$new/dev/pts"
mount -t tmpfs -o mode=1777 tmpfs "$new/dev/shm"
ln -s pts/ptmx "$new/dev/ptmx"
ln -s /proc/self/fd "$new/dev/fd"

mount -t proc proc "$new/proc"
for name in sys sysrq-trigger; do
    [ -e "$new/proc/$name" ] || continue
    mount --bind "$new/proc/$name" "$new/proc/$name"
    mount -o remount,bind,ro "$new/proc/$name"
done
mount -t sysfs -o ro sysfs "$new/sys"
mount -t cgroup2 cgroup2 "$new/sys/fs/cgroup"
mount --bind "$staging/report" "$new/var/report"

cd "$new"
mkdir opt/old
pivot_root . opt/old
umount -l opt/old
rmdir opt/old
# Nothing of the host is writable from here on, but the report folder.
if (: > /.probe) 2>/dev/null || (: > /usr/.probe) 2>/dev/null; then echo "the root is writable" >&2; exit 99; fi
[ "$(stat -f -c %T /tmp)" = tmpfs ] && [ -z "$(ls -A /tmp)" ] || { echo "/tmp is not new" >&2; exit 99; }
ldconfig
# Mounts of a service's set-up (credentials) reach PID 1 through a peer group, which begins here and ends with it.
mount --make-rshared /
exec env -i container=unshare PATH=/usr/sbin:/usr/bin:/sbin:/bin \
    SYSTEMD_UNIT_PATH=/etc/systemd/system:/opt/day/units SYSTEMD_LOG_TARGET=journal \
    /lib/systemd/systemd --system --unit=day.target
