#!/bin/sh
# Does the same to a file of the drive and to its model on a local disk, STEPS times, as fsx does: writes, holes,
# longer and shorter, whatever lies in the kernel's cache and whatever does not; and compares.
#
#   random_work.sh SEED STEPS FILE MODEL
#
# RANDOM_BYTES is a file of 1 MiB to write from. The file grows to 16 MiB, four times the drive's cache.
set -eu
state=$1 steps=$2 file=$3 model=$4
MIB=$((1 << 20))

below() { # below N: sets `drawn` to 0 .. N - 1; numbers of the C standard's example (7.22.2), 31 bits of state
  state=$(((state * 1103515245 + 12345) & 0x7fffffff))
  drawn=$(((state >> 8) % $1))
}

write_at() { # write_at OFFSET LENGTH FROM FILE
  dd if="$RANDOM_BYTES" of="$4" bs=64k iflag=skip_bytes,count_bytes oflag=seek_bytes conv=notrunc \
    seek="$1" count="$2" skip="$3" 2>/dev/null
}

compare() { # what is read comes from the drive
  sync
  echo 3 >/proc/sys/vm/drop_caches
  cmp "$file" "$model" || { echo "different after step $step"; exit 1; }
}

: >"$file"
: >"$model"
step=0
while [ "$step" -lt "$steps" ]; do
  step=$((step + 1))
  below $((16 * MIB)) && offset=$drawn
  below $((MIB / 2)) && length=$((drawn + 1))
  below $((MIB / 2)) && from=$drawn
  below 16
  for each in "$file" "$model"; do
    case $drawn in
      [0-7]) write_at "$offset" "$length" "$from" "$each" ;;
      8 | 9) fallocate --punch-hole --offset "$offset" --length "$length" "$each" ;;
      10) fallocate --zero-range --offset "$offset" --length "$length" "$each" ;;
      11) truncate -s "$offset" "$each" ;;
      12) mv "$each" "$each.moved" && cp "$each.moved" "$each" && rm "$each.moved" ;;
    esac
  done
  case $drawn in
    13) sync "$file" ;;
    14) fstrim "$(dirname "$file")" ;;
    15) compare ;;
  esac
done
compare
echo "the same after $step steps"
