#!/bin/sh
# Makes what every guest of kernel_vm.ts boots from, in the new folder DIR: the kernel that Debian's
# linux-image-cloud-amd64 stands for today (vmlinuz), and an initramfs (base.cpio.gz) of busybox, the modules and
# programs named below, and the shared libraries of these and of the programs given after DIR.
#
#   kernel_vm.sh DIR [PROGRAM...]
#
# The kernel is downloaded and not installed. Module and program dependencies are followed here.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
dir=$1
shift

modules='virtio_pci virtio_blk virtio_net nbd xfs raid1 brd loop'
programs='dash nbd-client mke2fs e2fsck mkfs.xfs xfs_repair mdadm fio fallocate'

mkdir -p "$dir"
cd "$dir"
package=$(apt-cache depends linux-image-cloud-amd64 | sed -n 's/^ *Depends: \(linux-image-[0-9].*\)/\1/p')
[ -n "$package" ] || { echo "apt knows no linux-image-cloud-amd64: run apt-get update" >&2; exit 1; }
apt-get download -q "$package" 2>apt.log || { cat apt.log >&2; exit 1; }
dpkg-deb -x linux-image-*.deb kernel
mv kernel/boot/vmlinuz-* vmlinuz
version=$(ls kernel/lib/modules)
busybox depmod -b "$PWD/kernel" "$version"

mkdir -p root/bin root/usr/bin root/sbin root/proc root/sys root/dev root/etc root/run root/mnt root/program root/tmp root/root

add_program() { # add_program FILE: to /usr/bin, with its libraries where it looks for them
  cp -L "$1" root/usr/bin/
  add_libraries "$1"
}

add_libraries() {
  { ldd "$1" 2>/dev/null || true; } | grep -o '/[^ ]*' | while read -r library; do
    mkdir -p "root$(dirname "$library")"
    cp -L "$library" "root$library"
  done
}

add_module() { # add_module KO: a line of modules.dep has what a module needs itself, not what that needs
  [ ! -e "root/lib/modules/$version/$1" ] || return 0
  mkdir -p "root/lib/modules/$version/$(dirname "$1")"
  cp "kernel/lib/modules/$version/$1" "root/lib/modules/$version/$1"
  sed -n "s|^$1: *||p" "kernel/lib/modules/$version/modules.dep" | tr -s ' ' '\n' |
    while read -r needed; do [ -z "$needed" ] || add_module "$needed"; done
}

PATH=$PATH:/usr/sbin:/sbin
cp "$(command -v busybox)" root/bin/
for program in $programs; do
  path=$(command -v "$program") || { echo "$program is missing; \`deno task test\` installs it" >&2; exit 1; }
  add_program "$path"
done
for program; do add_libraries "$program"; done
for module in $modules; do
  ko=$(sed -n "s|^\(.*/$module\.ko\):.*|\1|p" "kernel/lib/modules/$version/modules.dep")
  [ -n "$ko" ] || { echo "kernel $version has no module $module" >&2; exit 1; }
  add_module "$ko"
done
cp "kernel/lib/modules/$version/modules.builtin" "kernel/lib/modules/$version/modules.order" "root/lib/modules/$version/"
busybox depmod -b "$PWD/root" "$version"

ln -s dash root/usr/bin/sh # busybox's would take its own mke2fs for the one of that name
ln -s ../bin/busybox root/sbin/modprobe # where the kernel itself looks for it
ln -s /proc/self/mounts root/etc/mtab
cp /etc/mke2fs.conf root/etc/
printf '127.0.0.1 localhost\n10.0.2.2 host\n' >root/etc/hosts
cp "$here/kernel_vm_init.sh" root/init
chmod 755 root/init
(cd root && find . | cpio -o -H newc -R 0:0 --quiet | gzip -1) >base.cpio.gz
rm -rf kernel root linux-image-*.deb apt.log
