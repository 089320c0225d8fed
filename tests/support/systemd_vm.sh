#!/bin/sh
# Makes what every guest of systemd_vm.ts boots from, in the new folder DIR: Debian's cloud kernel (vmlinuz), an
# initramfs that finds the disk (initrd.gz), and the disk (root.ext4): a Debian 12 as small as systemd and a file
# system need it, without nbd-client, with a root shell on the second serial port.
#
#   systemd_vm.sh DIR
set -eu
dir=$1
PATH=$PATH:/usr/sbin:/sbin
packages=systemd,systemd-sysv,udev,kmod,e2fsprogs,xfsprogs,iproute2,ca-certificates

mkdir -p "$dir"
cd "$dir"
image=$(apt-cache depends linux-image-cloud-amd64 | sed -n 's/^ *Depends: \(linux-image-[0-9].*\)/\1/p')
[ -n "$image" ] || { echo "apt knows no linux-image-cloud-amd64: run apt-get update" >&2; exit 1; }
apt-get download -q "$image" 2>apt.log || { cat apt.log >&2; exit 1; }
dpkg-deb -x linux-image-*.deb kernel
version=$(ls kernel/lib/modules)
busybox depmod -b "$PWD/kernel" "$version"
mv kernel/boot/vmlinuz-* vmlinuz

# the machine's own sources, so that what works for apt-get works here
sources=
for file in /etc/apt/sources.list /etc/apt/sources.list.d/*; do
  if [ -s "$file" ]; then sources="$sources $file"; fi
done
# shellcheck disable=SC2086 # a list of files
mmdebstrap --quiet --variant=minbase --include="$packages" --aptopt='Acquire::Languages "none"' \
  --dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/doc/*' \
  --dpkgopt='path-exclude=/usr/share/locale/*' bookworm root $sources
mkdir -p root/lib/modules root/payload
cp -a "kernel/lib/modules/$version" root/lib/modules/
chroot root depmod "$version" # busybox's leaves out what kmod reads
echo guest >root/etc/hostname
printf '127.0.0.1 localhost guest\n10.0.2.2 host\n' >root/etc/hosts
cat >root/etc/fstab <<'END'
/dev/vda / ext4 defaults,noatime 0 0
/dev/vdb /payload ext4 ro,nofail 0 0
END
printf '[Match]\nType=ether\n[Network]\nAddress=10.0.2.15/24\n' >root/etc/systemd/network/guest.network
cat >root/etc/systemd/system/guest-shell.service <<'END'
[Unit]
Description=a root shell for the test
After=multi-user.target
[Service]
ExecStart=/bin/sh -c 'stty raw -echo; echo "guest: started"; exec /bin/sh'
StandardInput=tty-force
StandardOutput=tty
StandardError=tty
TTYPath=/dev/ttyS1
Environment=HOME=/root TERM=dumb PS1= PS2=
TimeoutStopSec=1
[Install]
WantedBy=graphical.target
END
chroot root systemctl --quiet enable guest-shell.service systemd-networkd.service
chroot root systemctl --quiet disable systemd-networkd-wait-online.service
chroot root systemctl --quiet set-default graphical.target
chroot root systemctl --quiet mask apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer \
  e2scrub_reap.service fstrim.timer getty@tty1.service serial-getty@ttyS0.service systemd-resolved.service
mke2fs -q -t ext4 -d root root.ext4 3G

mkdir -p initrd/bin initrd/proc initrd/dev initrd/root initrd/modules
cp "$(command -v busybox)" initrd/bin/
add_module() { # add_module KO: what it needs first
  [ -z "$(find initrd/modules -name "*-${1##*/}")" ] || return 0
  sed -n "s|^$1: *||p" "kernel/lib/modules/$version/modules.dep" | tr -s ' ' '\n' |
    while read -r needed; do [ -z "$needed" ] || add_module "$needed"; done
  number=$(find initrd/modules -type f | wc -l)
  cp "kernel/lib/modules/$version/$1" "initrd/modules/$((number + 10))-${1##*/}"
}
for module in virtio_pci virtio_blk ext4; do
  ko=$(sed -n "s|^\(.*/$module\.ko\):.*|\1|p" "kernel/lib/modules/$version/modules.dep")
  if [ -n "$ko" ]; then add_module "$ko"; fi
done
cat >initrd/init <<'END'
#!/bin/busybox sh
/bin/busybox mount -t devtmpfs dev /dev
/bin/busybox mount -t proc proc /proc
for module in /modules/*; do /bin/busybox insmod "$module"; done
until [ -b /dev/vda ]; do /bin/busybox usleep 20000; done
/bin/busybox mount -t ext4 /dev/vda /root
/bin/busybox mount --move /dev /root/dev
/bin/busybox umount /proc
exec /bin/busybox switch_root /root /sbin/init
END
chmod 755 initrd/init
(cd initrd && find . | cpio -o -H newc -R 0:0 --quiet | gzip -1) >initrd.gz
rm -rf kernel root initrd linux-image-*.deb apt.log
