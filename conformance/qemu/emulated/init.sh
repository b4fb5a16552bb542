#!/bin/sh
# The first program of the emulated arm64 machine: runs /command, and powers off.

export PATH=/busybox:/usr/bin HOME=/tmp
/busybox/busybox --install -s /busybox
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
mkdir -p /dev/shm
mount -t tmpfs shm /dev/shm
mount -t tmpfs tmp /tmp

echo "outer: up after $(cut -d' ' -f1 /proc/uptime) s"
sh /command </dev/null
echo "outer: the command ended with $? after $(cut -d' ' -f1 /proc/uptime) s"
poweroff -f
