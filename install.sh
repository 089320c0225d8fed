#!/bin/sh
# Installs ElasticDrive from the folder this file lies in, or upgrades to it; see --help. Needs no network.
#
#   /opt/elasticdrive-VERSION/        one folder for each version, as it was packed
#   /opt/elasticdrive/current         the version in use, a symbolic link; previous: the one before it
#   /opt/elasticdrive/elasticdrive    the program of the current version
#   /opt/elasticdrive/NAME.ini        a drive; config.ini unless --name says otherwise
#
# Everything that is missing or wrong is said at once, before anything is changed. Every step looks first whether it is
# done already, so that a second run changes nothing.
set -eu
LC_ALL=C
export LC_ALL

umask 022
here=$(cd "$(dirname "$0")" && pwd -P)
home=/opt/elasticdrive
units=/etc/systemd/system
templates='elasticdrive elasticdrive-attach elasticdrive-retry'
# systemd.exec(5): LoadCredential= came with it
systemd_min=247
# seconds until another machine's lease has run out for sure: LEASE_EXPIRED_MS, LEASE_WATCH_MS and a few tries
patience=240
# a file system's superblocks, a partition table, the start of a tape: whatever a device holds, it begins or ends with
empty_head_mib=64

usage() {
  cat <<'END'
usage: install.sh [OPTION...]                  install, or upgrade to the version in this folder
       install.sh --rollback                   go back to the version before
       install.sh --uninstall [--name NAME]    undo everything, or one drive, but for data and configuration
       install.sh --purge [--name NAME]        the configuration as well; what a bucket holds is never touched

The drive; a config.ini that is there already is left as it is:
  --bucket BUCKET     an S3 bucket, or file:/DIRECTORY for a trial
  --size SIZE         VOLUMESIZE, such as 100G; not needed if the bucket holds the drive already
  --set KEY=VALUE     any other key of config.ini.example; can be given several times
  --config FILE       a ready config.ini, in place of the three above
  --name NAME         a further drive, with /opt/elasticdrive/NAME.ini

The block device and what is on it:
  --device DEVICE     /dev/nbdN; default: /dev/nbd0, for a further drive the first free one
  --mount DIRECTORY   mount it there, now and at every boot
  --fs TYPE           the file system: ext4 (default) or xfs
  --format            make that file system, if the device is empty
  --nbd-client        attach by the program nbd-client; then a drive that dies fails what uses it

How:
  --unattended        ask nothing
  --dry-run           print each action, change nothing
  -h, --help          this text

Each option can be given in the environment instead: ELASTICDRIVE_BUCKET, ELASTICDRIVE_MOUNT, ...; those without
a value as yes, several KEY=VALUE with blanks between them. Keys to S3 can be given there only, as
AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY; without them the role of the instance is used.
END
}

say() { printf '%s\n' "$*"; }
fail() {
  printf 'install.sh: %s\n' "$*" >&2
  exit 1
}
refuse() {
  printf 'install.sh: %s; see install.sh --help\n' "$*" >&2
  exit 2
}

# ---- settings

yes_or_no() { # yes_or_no VARIABLE: "yes" or nothing
  eval "value=\${$1:-}"
  # shellcheck disable=SC2154 # set by the eval
  case $value in
    yes | 1 | true) echo yes ;;
    '' | no | 0 | false) ;;
    *) refuse "$1 can't be \"$value\"; allowed: yes or no" ;;
  esac
}

read_environment() {
  bucket=${ELASTICDRIVE_BUCKET:-} size=${ELASTICDRIVE_SIZE:-} sets=${ELASTICDRIVE_SET:-}
  config=${ELASTICDRIVE_CONFIG:-} name=${ELASTICDRIVE_NAME:-} device=${ELASTICDRIVE_DEVICE:-}
  mount=${ELASTICDRIVE_MOUNT:-} fs=${ELASTICDRIVE_FS:-}
  format=$(yes_or_no ELASTICDRIVE_FORMAT)
  nbd_client=$(yes_or_no ELASTICDRIVE_NBD_CLIENT)
  unattended=$(yes_or_no ELASTICDRIVE_UNATTENDED)
  dry_run=$(yes_or_no ELASTICDRIVE_DRY_RUN)
  action=install
}

read_arguments() {
  while [ $# -gt 0 ]; do
    option=$1
    case $option in
      --*=*) value=${option#*=} option=${option%%=*} ;;
      --bucket | --size | --set | --config | --name | --device | --mount | --fs)
        [ $# -gt 1 ] || refuse "$option needs a value"
        value=$2
        shift
        ;;
    esac
    shift
    case $option in
      --bucket) bucket=$value ;;
      --size) size=$value ;;
      --set) sets="$sets $value" ;;
      --config) config=$value ;;
      --name) name=$value ;;
      --device) device=$value ;;
      --mount) mount=$value ;;
      --fs) fs=$value ;;
      --format) format=yes ;;
      --nbd-client) nbd_client=yes ;;
      --unattended) unattended=yes ;;
      --dry-run) dry_run=yes ;;
      --rollback | --uninstall | --purge) action=${option#--} ;;
      -h | --help) usage && exit 0 ;;
      *) refuse "unknown option \"$option\"" ;;
    esac
  done
}

# All that is wrong with the settings by themselves.
check_settings() {
  for word in $sets; do
    key=${word%%=*}
    case $word in
      [A-Za-z_]*=?*) is_key "$key" || lack "--set $word: there is no key $key; allowed: $(keys)" ;;
      *) lack "--set can't be \"$word\"; allowed: KEY=VALUE" ;;
    esac
  done
  case $bucket$size in
    *[[:space:]*?[]*) lack "--bucket and --size can't have blanks, * or ?: write a config.ini that does, and give --config" ;;
  esac
  case $name in
    *[!A-Za-z0-9_.]* | .*) lack "--name can't be \"$name\"; allowed: letters, digits, _ and ." ;;
  esac
  case $device in
    '' | /dev/nbd[0-9] | /dev/nbd[0-9][0-9]) ;;
    *) lack "--device can't be \"$device\"; allowed: /dev/nbd0 to /dev/nbd99" ;;
  esac
  case $mount in
    '' | /?*) ;;
    *) lack "--mount can't be \"$mount\"; allowed: a path that begins with /" ;;
  esac
  case $fs in
    '' | ext4 | xfs) ;;
    *) lack "--fs can't be \"$fs\"; allowed: ext4 or xfs" ;;
  esac
  [ -z "$config" ] || [ -z "$bucket$size$sets" ] ||
    lack "--config is given together with --bucket, --size or --set; allowed: either"
  [ -z "$config" ] || [ -r "$config" ] || lack "--config $config: no such file"
}

keys() { sed -n 's/^#\{0,1\}\([A-Za-z_]*\) \{0,1\}=.*/\1/p' "$here/config.ini.example" | tr '\n' ' '; }
is_key() { keys | tr ' ' '\n' | grep -qix "$1"; }

# Names of what belongs to the drive.
name_parts() {
  ini=$home/${name:=config}.ini
  instance=@$name
  [ "$name" != config ] || instance=
  server=elasticdrive$instance.service
  attach=elasticdrive-attach$instance.service
  : "${fs:=ext4}" "${device:=$(choose_device)}"
  block=${device#/dev/}
  if [ -n "$mount" ]; then mount_unit=$(systemd-escape --path --suffix=mount "$mount" 2>/dev/null) || mount_unit=; fi
}

device_of() { # device_of UNIT: what a drive that is installed is attached to
  sed -n 's/^Environment=DEVICE=//p' "$units/$1.d/install.conf" 2>/dev/null || true
}

choose_device() {
  found=$(device_of "$attach")
  number=0
  [ -z "$instance" ] || number=1
  while [ -z "$found" ]; do
    grep -qsx "Environment=DEVICE=/dev/nbd$number" "$units"/elasticdrive-attach*.d/install.conf ||
      [ -e "/sys/block/nbd$number/pid" ] || found=/dev/nbd$number
    number=$((number + 1))
  done
  say "$found"
}

# ---- asking

ask() { # ask VARIABLE QUESTION
  eval "[ -z \"\${$1:-}\" ]" || return 0
  printf '%s: ' "$2"
  read -r "$1"
}

ask_for_drive() {
  [ -z "$unattended$config" ] && [ ! -e "$ini" ] && [ -t 0 ] || return 0
  ask bucket "Bucket (or file:/DIRECTORY for a trial)"
  ask size "Size of the disk, such as 100G (empty: the bucket holds one already)"
  case $bucket in
    file:*) ;;
    *)
      ask AWS_ACCESS_KEY_ID "AWS access key (empty: the role of the instance)"
      if [ -n "${AWS_ACCESS_KEY_ID:-}" ] && [ -z "${AWS_SECRET_ACCESS_KEY:-}" ]; then
        stty -echo
        ask AWS_SECRET_ACCESS_KEY "AWS secret access key (not shown)"
        stty echo
        say
      fi
      ;;
  esac
  ask mount "Mount at, such as /s3 (empty: not at all)"
  if [ -n "$mount" ]; then ask format "Make a file system, if the disk is empty (yes or no)"; fi
  format=$(yes_or_no format)
}

# ---- what is missing

lacks=
lack() { lacks="$lacks
  - $*"; }

need() { # need PROGRAM PACKAGE
  command -v "$1" >/dev/null || lack "$1 is missing: install the package $2"
}

check_host() {
  [ "$(id -u)" = 0 ] || lack "root: run it as root, or with sudo"
  if [ -d /run/systemd/system ]; then
    systemd=$(systemctl --version | sed -n '1s/^systemd \([0-9]*\).*/\1/p')
    [ "${systemd:-0}" -ge $systemd_min ] || lack "systemd ${systemd:-?} is too old: $systemd_min or newer is needed"
  else
    lack "systemd does not run this machine: without it, start $here/elasticdrive and attach it yourself (README.md)"
  fi
  need useradd "passwd (Debian) or shadow-utils (Fedora, Amazon Linux)"
  if command -v modprobe >/dev/null; then
    [ -d /sys/module/nbd ] || modprobe --dry-run --quiet nbd ||
      lack "the kernel $(uname -r) has no module nbd: install the package that has it (Debian: linux-image-amd64," \
        "Ubuntu: linux-modules-extra-$(uname -r), Amazon Linux: kernel-modules-extra), and boot that kernel"
  else
    need modprobe kmod
  fi
  [ -z "$nbd_client" ] || need nbd-client "nbd-client (Debian, Ubuntu) or nbd (Fedora), or leave --nbd-client away"
  [ -z "$format" ] || need "mkfs.$fs" "$([ "$fs" = xfs ] && echo xfsprogs || echo e2fsprogs)"
  [ -z "$format" ] || need wipefs util-linux
}

# Sets target, where this version belongs, if the program runs here.
check_program() {
  target=
  for file in elasticdrive config.ini.example; do
    [ -e "$here/$file" ] || lack "$here/$file: it belongs to this package; unpack it anew"
  done
  for unit in $templates; do
    file=systemd/$unit@.service
    [ -e "$here/$file" ] || lack "$here/$file: it belongs to this package; unpack it anew"
  done
  [ -e "$here/elasticdrive" ] || return 0
  case $(od -An -tu2 -j18 -N2 "$here/elasticdrive" | tr -d ' ') in # e_machine of elf(5)
    62) made_for=x86_64 ;;
    183) made_for=aarch64 ;;
    *) made_for='another machine' ;;
  esac
  if [ "$made_for" != "$(uname -m)" ]; then
    lack "this package is for $made_for, and this machine is $(uname -m): take the one for $(uname -m)"
  elif ! version=$("$here/elasticdrive" --version 2>&1); then
    lack "the program does not run here: $version"
  else
    version=${version#elasticdrive }
    target=$home-$version
  fi
}

check_space() {
  [ -n "$target" ] && [ "$here" != "$target" ] || return 0
  needed_kib=$(du -sk "$here" | cut -f1)
  free_kib=$(df -Pk /opt 2>/dev/null || df -Pk /)
  free_kib=$(say "$free_kib" | sed -n '2s/^.* \([0-9][0-9]*\)  *[0-9-]*% .*/\1/p')
  [ "$free_kib" -gt "$needed_kib" ] ||
    lack "room in /opt: $((needed_kib / 1024)) MiB are needed, $((free_kib / 1024)) MiB are free"
}

check_device() {
  attached=$(device_of "$attach")
  if [ -n "$attached" ] && [ "$attached" != "$device" ] && systemctl --quiet is-active "$attach"; then
    lack "the drive is attached to $attached: systemctl stop $attach first, or leave --device away"
  elif [ "$attached" != "$device" ] && [ -e "/sys/block/$block/pid" ]; then
    lack "$device is in use by process $(cat "/sys/block/$block/pid"): detach it, or give another --device"
  fi
  if [ -d /sys/module/nbd ] && [ ! -e "/sys/block/$block" ]; then
    lack "$device does not exist: the module nbd was loaded with nbds_max=$(cat /sys/module/nbd/parameters/nbds_max)"
  fi
}

check_mount() {
  [ -n "$mount" ] || return 0
  [ -z "$mount_unit" ] || [ ! -e "$units/$mount_unit" ] || grep -qs "^What=$device\$" "$units/$mount_unit" ||
    lack "$units/$mount_unit mounts something else at $mount: give another --mount"
  if [ -n "$(ls -A "$mount" 2>/dev/null)" ] && [ ! -e "$units/$mount_unit" ]; then
    lack "$mount is not empty: what is in it would be hidden; give another --mount"
  fi
}

# Makes $made, the configuration, and has the program check it.
check_config() {
  directory=
  made=$(mktemp)
  trap 'rm -f "$made"' EXIT
  if [ -e "$ini" ]; then
    cat "$ini" >"$made"
  elif [ -n "$config" ]; then
    if [ -r "$config" ]; then cat "$config" >"$made"; else return 0; fi
  elif [ -z "$bucket" ]; then
    lack "a bucket: give --bucket BUCKET, or --bucket file:/DIRECTORY for a trial, or --config FILE"
    return 0
  else
    make_config >"$made"
  fi
  [ -n "$target" ] || return 0
  if shown=$("$here/elasticdrive" -c "$made" check-config 2>&1); then
    directory=$(say "$shown" | sed -n 's/^  BUCKET = file:\(.*[^ ]\)  .*/\1/p' | sed 's/ *$//')
    check_directory
  else
    lack "$(say "$shown" | sed "s|$made|$ini|; s/^elasticdrive: error: //" | paste -sd ' ')"
  fi
}

# config.ini.example with the settings in place of what stands there.
make_config() {
  set_keys="socket=/run/elasticdrive/$name/nbd.sock BUCKET=$bucket"
  [ -z "$size" ] || set_keys="$set_keys VOLUMESIZE=$size"
  # 9998 is /dev/nbd0's; each device is one drive's, and so is its port
  case $device in
    /dev/nbd[1-9] | /dev/nbd[1-9][0-9]) set_keys="$set_keys status=127.0.0.1:$((9998 - ${device#/dev/nbd}))" ;;
  esac
  [ -z "${AWS_ACCESS_KEY_ID:-}" ] || set_keys="$set_keys AWS_ACCESS_KEY_ID=$AWS_ACCESS_KEY_ID"
  [ -z "${AWS_SECRET_ACCESS_KEY:-}" ] || set_keys="$set_keys AWS_SECRET_ACCESS_KEY=$AWS_SECRET_ACCESS_KEY"
  edit=
  for key in AWS_ACCESS_KEY_ID AWS_SECRET_ACCESS_KEY STRIPE VOLUMESIZE port; do edit="$edit
    s/^$key *=/#&/"; done
  for word in $set_keys $sets; do
    value=$(say "${word#*=}" | sed 's/[\\&|]/\\&/g')
    edit="$edit
    s|^#*${word%%=*} *=.*|${word%%=*}=$value|I"
  done
  # not as an argument, which everybody can see: it has a secret
  say "$edit" | sed -f - "$here/config.ini.example"
}

check_directory() {
  [ -n "$directory" ] && [ -d "$directory" ] && [ -n "$(ls -A "$directory")" ] || return 0
  find "$directory" -name volume.json | grep -q . ||
    lack "the bucket file:$directory holds something else than a drive: give an empty directory, or a new one"
}

# ---- doing

changed=
run() {
  changed=yes
  say "$*"
  [ -n "$dry_run" ] || "$@"
}

put() { # put MODE FILE TEXT: unless it is there
  [ "$3" != "$(cat "$2" 2>/dev/null)" ] || return 0
  changed=yes
  say "write $2"
  [ -z "$dry_run" ] || return 0
  mkdir -p "$(dirname "$2")"
  (umask 077 && say "$3" >"$2.new")
  chmod "$1" "$2.new"
  mv "$2.new" "$2"
}

link() { # link TARGET LINK: in one step, so that there is a program at any time
  [ "$(readlink "$2" 2>/dev/null)" != "$1" ] || return 0
  run ln -sfn "$1" "$2.new"
  run mv -T "$2.new" "$2"
}

place_program() {
  if [ "$here" != "$target" ] && ! diff -rq --exclude=config.ini "$here" "$target" >/dev/null 2>&1; then
    run rm -rf "$target.new"
    run cp -R "$here" "$target.new"
    run rm -rf "$target"
    run mv -T "$target.new" "$target"
    is_new=yes
  fi
  [ -d "$home" ] || run mkdir -p "$home"
  # beside the program is where it looks for its configuration
  link ../elasticdrive/config.ini "$target/config.ini"
  current=$(readlink "$home/current" 2>/dev/null) || current=
  if [ "$current" != "../elasticdrive-$version" ]; then
    [ -z "$current" ] || link "$current" "$home/previous"
    link "../elasticdrive-$version" "$home/current"
    is_new=yes
  fi
  link current/elasticdrive "$home/elasticdrive"
}

place_user() {
  id elasticdrive >/dev/null 2>&1 ||
    run useradd --system --user-group --no-create-home --home-dir / --shell /usr/sbin/nologin elasticdrive
}

place_config() {
  if [ -e "$ini" ]; then
    [ -z "$bucket$size$sets$config" ] || say "$ini is there and is left as it is"
    [ "$(stat -c '%a %U' "$ini")" = '600 root' ] || run chown root "$ini"
    [ "$(stat -c %a "$ini")" = 600 ] || run chmod 600 "$ini"
  else
    put 600 "$ini" "$(cat "$made")"
  fi
  [ -n "$directory" ] || return 0
  [ -d "$directory" ] || run mkdir -p "$directory"
  [ "$(stat -c %U "$directory" 2>/dev/null)" = elasticdrive ] || run chown -R elasticdrive: "$directory"
  [ "$(stat -c %a "$directory" 2>/dev/null)" = 700 ] || run chmod 700 "$directory"
}

place_units() {
  for unit in $templates; do
    put 644 "$units/$unit@.service" "$(cat "$here/systemd/$unit@.service")"
    # the drive of config.ini, by the name that everybody types
    put 644 "$units/$unit.service" "$(sed -e 's/@%i//g' -e 's/%i/config/g' "$here/systemd/$unit@.service")"
  done
  [ -z "$directory" ] || put 644 "$units/$server.d/install.conf" "$(server_lines)"
  put 644 "$units/$attach.d/install.conf" "$(attach_lines)"
}

place_mount() {
  [ -z "$mount" ] || put 644 "$units/$mount_unit" "$(mount_lines)"
  for of in elasticdrive elasticdrive@; do
    [ -z "$(mounts)" ] || put 644 "$units/$of.service.d/mounts.conf" "$(hidden_lines)"
  done
}

mounts() { # of all drives
  {
    [ -z "$mount" ] || say "$mount"
    for unit in "$units"/*.mount; do
      if grep -qs '^Requires=elasticdrive-attach' "$unit"; then sed -n 's/^Where=//p' "$unit"; fi
    done
  } | sort -u
}

# ProtectSystem=strict has systemd take a lock of each file system that a service can see, when it starts it. One that
# waits for the drive may hold it, and the drive would never start.
hidden_lines() {
  say '[Service]'
  mounts | sed 's/.*/InaccessiblePaths="-&"/'
}

# The bucket is a directory of this machine, which it may be the only one to write to.
server_lines() {
  cat <<END
[Unit]
RequiresMountsFor="$directory"
[Service]
BindPaths="$directory"
END
}

attach_lines() {
  say '[Service]'
  say "Environment=DEVICE=$device"
  [ -z "$nbd_client" ] || nbd_client_lines
}

# nbd-client can't give a device a new connection: after a restart of the drive it is attached anew.
nbd_client_lines() {
  program=$(command -v nbd-client)
  socket=$(sed -n 's/^socket *= *//p' "$made")
  cat <<END
ExecStart=
ExecStart=$program -unix $socket $device -b 4096 -timeout 60
ExecReload=
ExecStop=
ExecStop=$program -d $device
END
}

mount_lines() {
  cat <<END
# written by install.sh of ElasticDrive
[Unit]
Description=ElasticDrive $name at $mount
Requires=$attach
After=$attach

[Mount]
What=$device
Where=$mount
Type=$fs
Options=_netdev,noatime
# all that was written is stored before it is unmounted, as long as that takes
TimeoutSec=infinity

[Install]
WantedBy=$attach
END
}

place_module() {
  put 644 /etc/modules-load.d/elasticdrive.conf nbd
  put 644 /etc/modprobe.d/elasticdrive.conf 'options nbd nbds_max=16 max_part=15'
  [ -d /sys/module/nbd ] || run modprobe nbd
}

start() { # start UNIT
  systemctl --quiet is-active "$1" 2>/dev/null || run systemctl start "$1" || fail_with_log "$1"
}

at_boot() { # at_boot UNIT
  systemctl --quiet is-enabled "$1" 2>/dev/null || run systemctl --quiet enable "$1"
}

# A machine that had the drive and is gone without a word still holds it for a minute or two; systemd tries again.
start_server() {
  systemctl --quiet is-active "$server" 2>/dev/null && return
  run systemctl start "$server" && return
  seconds=0
  until systemctl --quiet is-active "$server"; do
    if ! is_held || [ "$seconds" -ge "$patience" ]; then fail_with_log "$server"; fi
    [ "$seconds" != 0 ] || say 'another machine holds the drive; if that is gone, this takes two minutes'
    sleep 5
    seconds=$((seconds + 5))
  done
}

is_held() { # src/volume/lease.ts words it
  journalctl --no-pager -o cat -n 20 -u "$server" | grep -q 'last heard of'
}

fail_with_log() {
  journalctl --no-pager -o cat -n 20 -u "$1" >&2 || true
  fail "$1 does not start; what it said is above"
}

# Drives that run go over to what is new one by one; what is mounted on them waits meanwhile.
restart_drives() {
  for unit in $(drives --state=active); do
    run systemctl restart "$unit" || fail_with_log "$unit"
  done
}

drives() { # of this machine, by their servers
  systemctl list-units --plain --no-legend "$@" 'elasticdrive.service' 'elasticdrive@*.service' | cut -d ' ' -f 1
}

make_file_system() {
  [ -n "$format" ] || return 0
  case $fs in
    ext4) set -- mkfs.ext4 -q -b 4096 "$device" ;;
    xfs) set -- mkfs.xfs -q "$device" ;;
  esac
  if [ -n "$dry_run" ]; then
    run "$@"
    return 0
  fi
  held=$(blkid -p -o value -s TYPE "$device" || true)
  [ "$held" != "$fs" ] || return 0
  signatures=$(wipefs --no-act --parsable --output TYPE "$device" | sed '/^#/d' | sort -u | paste -sd ' ')
  [ -z "$signatures" ] || fail "$device is not empty, it holds $signatures: nothing is formatted"
  is_empty || fail "$device is not empty, though what it holds is unknown: nothing is formatted"
  run "$@"
}

is_empty() {
  bytes=$(($(cat "/sys/block/$block/size") * 512))
  head=$((empty_head_mib * 1048576))
  [ "$bytes" -gt "$head" ] || head=$bytes
  cmp -s -n "$head" "$device" /dev/zero &&
    dd if="$device" bs=1048576 skip=$((bytes / 1048576 - 1)) 2>/dev/null | cmp -s -n 1048576 - /dev/zero
}

install() {
  check_settings
  name_parts
  ask_for_drive
  name_parts
  check_host
  check_program
  check_space
  check_device
  check_mount
  check_config
  if [ -n "$lacks" ]; then
    say "install.sh: nothing was changed; it lacks:$lacks" >&2
    [ -n "$dry_run" ] && [ -n "$target" ] || exit 1
  fi
  is_new=
  place_program
  place_user
  place_config
  place_module
  before=$changed changed=
  place_units
  [ -z "$changed" ] || is_new=yes
  place_mount
  [ -z "$changed" ] || run systemctl daemon-reload
  changed=$before$changed
  [ -z "$is_new" ] || restart_drives
  # whatever happens now, the next boot or the next try has them
  at_boot "$server"
  at_boot "$attach"
  start_server
  start "$attach"
  make_file_system
  if [ -n "$mount" ]; then
    at_boot "$mount_unit"
    start "$mount_unit"
  fi
  [ -z "$lacks" ] || exit 1
  finish
}

finish() {
  if [ -z "$changed" ]; then
    say "ElasticDrive $version: everything is as it should be, nothing was changed"
  elif [ -z "$dry_run" ]; then
    say "ElasticDrive $version: $device${mount:+ at $mount}; systemctl status $server"
  fi
}

rollback() {
  [ -x "$home/previous/install.sh" ] || fail "there is no version before this one in $home/previous"
  set -- --unattended --name "${name:-config}"
  [ -z "$dry_run" ] || set -- "$@" --dry-run
  exec sh "$(readlink -f "$home/previous")/install.sh" "$@"
}

# ---- undoing

remove() { # remove FILE...: those that are there
  for file; do
    if [ -e "$file" ] || [ -L "$file" ]; then run rm -rf "$file"; fi
  done
}

switch_off() { # switch_off UNIT
  if systemctl --quiet is-active "$1"; then
    run systemctl stop "$1" || true
    [ -n "$dry_run" ] || ! systemctl --quiet is-active "$1" || fail "$1 does not stop: is it in use? nothing more is removed"
  fi
  systemctl --quiet is-enabled "$1" 2>/dev/null && run systemctl --quiet disable "$1"
  systemctl reset-failed "$1" 2>/dev/null || true
}

remove_drive() { # remove_drive NAME
  name=$1
  device=/dev/nbd0
  name_parts
  for unit in "$units"/*.mount; do
    grep -qs "^Requires=$attach\$" "$unit" || continue
    where=$(sed -n 's/^Where=//p' "$unit")
    switch_off "${unit##*/}"
    remove "$unit"
    [ ! -d "$where" ] || [ -n "$(ls -A "$where")" ] || run rmdir "$where"
  done
  switch_off "$attach"
  switch_off "$server"
  directory=$(sed -n 's/^BindPaths="\(.*\)"/\1/p' "$units/$server.d/install.conf" 2>/dev/null) || true
  if [ -n "$directory" ]; then
    say "the drive's data stays in $directory"
    run chown -R root: "$directory"
  fi
  remove "$units/$server.d" "$units/$attach.d"
  if [ "$action" = purge ]; then remove "$ini"; elif [ -e "$ini" ]; then say "$ini stays"; fi
}

uninstall() {
  [ "$(id -u)" = 0 ] || fail "only root can do that: run it as root, or with sudo"
  only=$name
  names=$(for ini in "$home"/*.ini; do [ ! -e "$ini" ] || basename "$ini" .ini; done)
  for each in ${only:-$names}; do remove_drive "$each"; done
  if [ -z "$only" ]; then
    for unit in $templates; do remove "$units/$unit.service" "$units/$unit@.service"; done
    remove "$units"/elasticdrive.service.d "$units"/elasticdrive@.service.d
    remove /etc/modules-load.d/elasticdrive.conf /etc/modprobe.d/elasticdrive.conf /run/elasticdrive
    if id elasticdrive >/dev/null 2>&1; then run userdel elasticdrive; fi
    remove "$home/elasticdrive" "$home/current" "$home/previous" "$home"-[0-9]*
    [ ! -d "$home" ] || [ -n "$(ls -A "$home")" ] || run rmdir "$home"
  fi
  [ -z "$changed" ] || run systemctl daemon-reload
}

read_environment
read_arguments "$@"
case $action in
  install) install ;;
  rollback) rollback ;;
  uninstall | purge) uninstall ;;
esac
