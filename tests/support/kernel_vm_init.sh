#!/usr/bin/dash
# The first process of a guest of kernel_vm.ts. The first serial port has what the kernel says; the second is the
# script's terminal, where the test reads what it prints and answers what it asks.
/bin/busybox --install -s /bin
export PATH=/usr/bin:/bin:/sbin HOME=/root
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mount -t tmpfs tmp /tmp
mount -t tmpfs run /run
mkdir -p /run/lock
hostname guest
exec </dev/ttyS1 >/dev/ttyS1 2>&1
stty raw -echo
echo 'guest: started'
for module in virtio_pci virtio_blk virtio_net; do modprobe "$module"; done
until [ -e /sys/class/net/eth0 ] && [ -e /sys/block/vda/size ]; do usleep 20000; done
ip link set lo up
ip addr add 10.0.2.15/24 dev eth0
ip link set eth0 up
ip route add default via 10.0.2.2
mount -t ext4 -o ro /dev/vda /program
sh -eu /guest/script
echo "guest: ended with $?"
poweroff -f
