#!/bin/sh
# The first program of a guest. What it finds out goes to the serial port, a line each, that begins with "guest:".
# The kernel's command line says which devices to use: viommu=nvme,console

say() { echo "guest: $*" >/dev/kmsg; }
now() { cut -d' ' -f1 /proc/uptime; }

mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
for module in /modules/*; do
	[ ! -e "$module" ] || insmod "$module" || say "fail modules: ${module##*/}"
done
say "up after $(now) s"

# Devices, the driver that has them, and how their DMA is translated.
for device in /sys/bus/pci/devices/*; do
	driver=$(basename "$(readlink "$device/driver" || echo none)")
	group=$(cat "$device/iommu_group/type" 2>/dev/null)
	say "pci ${device##*/} $(cat "$device/vendor"):$(cat "$device/device") driver=$driver domain=${group:-none}"
done

# A file system, files in it, and what is in them when nothing of that is in memory any more.
try_nvme() {
	seconds=0
	until [ -e /dev/nvme0n1 ] || [ $((seconds += 1)) -gt 15 ]; do sleep 1; done
	mke2fs /dev/nvme0n1 >/dev/null 2>&1 || { say "fail nvme: no file system on /dev/nvme0n1"; return; }
	mkdir -p /disk
	mount -t ext2 /dev/nvme0n1 /disk || { say "fail nvme: it does not mount"; return; }
	dd if=/dev/urandom of=/disk/file bs=64k count=16 2>/dev/null
	echo "written by the guest" >/disk/note
	written=$(md5sum </disk/file)
	umount /disk
	echo 3 >/proc/sys/vm/drop_caches
	mount -t ext2 /dev/nvme0n1 /disk || { say "fail nvme: it does not mount again"; return; }
	[ "$(md5sum </disk/file)" = "$written" ] || { say "fail nvme: other bytes came back"; return; }
	umount /disk
	say "ok nvme ${written%% *}"
}

# A line to the other end of the virtio console, and one from there.
try_console() {
	[ -e /dev/hvc0 ] || { say "fail console: no /dev/hvc0"; return; }
	# Kept open: what stty says holds until the last close.
	exec 3<>/dev/hvc0
	stty raw -echo <&3
	echo "hello from guest" >&3
	read -t 20 line <&3 || { say "fail console: nothing came"; return; }
	say "ok console $line"
}

# Somebody else plugs a disk in when this is said.
try_plug() {
	say "plug $(ls /dev | grep -c '^nvme0n1$') disks"
	seconds=0
	until [ -e /dev/nvme0n1 ] || [ $((seconds += 1)) -gt 15 ]; do sleep 1; done
	[ -e /dev/nvme0n1 ] && say "ok plug" || say "fail plug: no /dev/nvme0n1"
}

try_unplug() {
	say "unplug $(ls /dev | grep -c '^nvme0n1$') disks"
	seconds=0
	while [ -e /dev/nvme0n1 ] && [ $((seconds += 1)) -le 15 ]; do sleep 1; done
	[ -e /dev/nvme0n1 ] && say "fail unplug: /dev/nvme0n1 is still there" || say "ok unplug"
}

# Somebody else does something to the machine meanwhile: resets it, the first time.
try_wait() {
	say "waits"
	sleep 3
}

for what in $(sed -n 's/.*viommu=\([^ ]*\).*/\1/p' /proc/cmdline | tr , ' '); do
	began=$(now)
	"try_$what"
	say "time $what $began $(now)"
done
say "done after $(now) s"
poweroff -f
