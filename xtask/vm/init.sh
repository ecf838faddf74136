#!/bin/busybox sh
# PID 1 of a guest, run from the initramfs: makes a root of the host's (read-only, below a tmpfs), runs one
# command in it, reports its exit status and powers off. `cargo xtask vm` writes what it reads:
#   /modules/order  a line per module: file and parameters, in load order
#   /cmd.sh         the command
#   /debian         there if systemd is to be PID 1: the directory, below the host's root, of a Debian that takes the place of the host's
#                   root; then a directory of the host's that is seen in it at the same path
# and reads what it writes: UP, EXIT n, FATAL why on the port `status`; the command's output on the port `out`. A command that reboots the
# guest writes REBOOT on `status` first.
B=/bin/busybox
$B mkdir -p /proc /sys /dev /lower /upper /newroot
$B mount -t devtmpfs dev /dev 2>/dev/null
$B mount -t proc proc /proc
$B mount -t sysfs sys /sys

say() { echo "bpfd-vm: $*" >/dev/kmsg; }
die() {
	echo "BPFD-VM-FATAL $*" >/dev/kmsg
	[ -e /dev/port-status ] && echo "FATAL $*" >/dev/port-status
	$B poweroff -f
	$B sleep 60
}

# Unquoted on purpose: a line is a file and its parameters.
while read -r module; do
	$B insmod /modules/$module 2>/insmod.err || $B grep -q 'File exists' /insmod.err || die "insmod $module: $($B cat /insmod.err)"
done </modules/order

# The ports get their names when the device is probed, which may be after insmod returns.
i=0
while [ $i -lt 500 ] && ! [ -e /dev/port-status -a -e /dev/port-out ]; do
	for name in /sys/class/virtio-ports/*/name; do
		[ -e "$name" ] || continue
		port=${name%/name}
		$B ln -sf "/dev/${port##*/}" "/dev/port-$($B cat "$name")"
	done
	$B usleep 10000
	i=$((i + 1))
done
[ -e /dev/port-status ] || die "no port to report on"
[ -e /dev/port-out ] || die "no port for output"

$B mount -t virtiofs -o ro hostroot /lower || die "cannot mount the host's root"
if [ -e /dev/vda ]; then
	# It has no journal: a boot after a reboot that was none would find it damaged.
	$B mount -t ext4 /dev/vda /upper || die "cannot mount the disk"
else
	$B mount -t tmpfs -o mode=755,size=80% tmpfs /upper
fi
$B mkdir -p /upper/u /upper/w
root=/lower
if [ -e /debian ]; then
	{
		read -r debian
		read -r shown
	} </debian
	root=/lower$debian
fi
$B mount -t overlay -o "lowerdir=$root,upperdir=/upper/u,workdir=/upper/w" overlay /newroot || die "cannot mount the root"

if [ -e /debian ]; then
	$B mkdir -p "/newroot$shown" /newroot/run
	$B mount -o bind "/lower$shown" "/newroot$shown" || die "cannot show $shown"
	$B mount -t tmpfs -o mode=755 run /newroot/run
	$B mkdir /newroot/run/bpfd-vm
	$B cp /cmd.sh /bin/busybox /newroot/run/bpfd-vm/
	# A host keeps it over a reboot.
	[ -s /newroot/etc/machine-id ] || $B tr -d - </proc/sys/kernel/random/uuid >/newroot/etc/machine-id
	echo bpfd-vm >/newroot/etc/hostname
	: >/newroot/etc/fstab
	units=/newroot/etc/systemd/system
	# Its getties wait for terminals that are not there.
	$B ln -sf /dev/null $units/getty.target
	$B mkdir -p $units/multi-user.target.wants
	$B ln -sf ../bpfd-vm.service $units/multi-user.target.wants/bpfd-vm.service
	$B cat >$units/bpfd-vm.service <<-'EOF'
		[Unit]
		After=basic.target
		[Service]
		Type=oneshot
		TimeoutStartSec=infinity
		Environment=HOME=/root TERM=dumb LANG=C.UTF-8 BPFD_VM=systemd
		ExecStart=/bin/sh -c '/bin/sh /run/bpfd-vm/cmd.sh </dev/null >/dev/port-out 2>&1; echo "EXIT $$? $$(cut -d" " -f1 /proc/uptime)" >/dev/port-status; sync; exec /run/bpfd-vm/busybox poweroff -f'
	EOF
	echo 1 >/proc/sys/net/core/bpf_jit_enable
	echo "UP $($B cut -d' ' -f1 /proc/uptime)" >/dev/port-status
	exec $B switch_root /newroot /lib/systemd/systemd --log-level=warning --show-status=no
fi

cd /newroot
for d in proc sys dev run tmp; do $B mkdir -p $d; done
$B mount -t proc proc proc
$B mount -t sysfs sys sys
$B mount -t devtmpfs dev dev
$B mkdir -p dev/pts dev/shm
$B mount -t devpts -o ptmxmode=0666 pts dev/pts
$B mount -t tmpfs shm dev/shm
$B mount -t tmpfs -o mode=755 run run
$B mount -t securityfs sec sys/kernel/security
$B mount -t tracefs trace sys/kernel/tracing
$B mount -t debugfs debug sys/kernel/debug 2>/dev/null
$B mount -t bpf bpf sys/fs/bpf
$B mount -t cgroup2 cg sys/fs/cgroup
$B ln -sf /proc/self/fd dev/fd
$B mkdir -p run/bpfd-vm
$B cp /cmd.sh run/bpfd-vm/cmd.sh

$B ip link set lo up
$B hostname bpfd-vm
echo 1 >/proc/sys/net/core/bpf_jit_enable
echo 0 >/proc/sys/kernel/kptr_restrict
echo 1 >/proc/sys/kernel/sysrq

# Over the first one: setns(2) into a mount namespace makes what lies on top of it the root (nsenter --mount). This
# shell keeps its own.
$B mount -o move . / || die "cannot move the root"

echo "UP $($B cut -d' ' -f1 /proc/uptime)" >/dev/port-status
PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
export PATH HOME=/root TERM=dumb LANG=C.UTF-8 BPFD_VM=1
$B setsid $B chroot . /bin/sh /run/bpfd-vm/cmd.sh </dev/null >/dev/port-out 2>&1
status=$?
echo "EXIT $status $($B cut -d' ' -f1 /proc/uptime)" >/dev/port-status
$B sync
$B poweroff -f
$B sleep 60
