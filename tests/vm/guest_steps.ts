/** Steps of sh for the scripts of guests. */
import type { Drive } from "../support/drive.ts";

/** As the original's README spells it, which today's nbd-client still takes. The device is there when it ends. */
export const attach = ({ port }: Drive) => `
  modprobe nbd
  nbd-client bs=4096 10.0.2.2 ${port} /dev/nbd0
  until [ -e /sys/block/nbd0/pid ]; do usleep 20000; done
`;

/** Waits until a mirror has nothing to resync, and is whole; mdadm's own wait fails where there is nothing to wait for. */
export const UNTIL_MIRRORED = `
  until grep -q '\\[UU\\]' /proc/mdstat && ! grep -q 're[sc]' /proc/mdstat; do usleep 100000; done
`;

/** `make_files NAME COUNT`: random files below /s3/NAME, and their sums beside them; stored when it ends. */
export const MAKE_FILES = `
  make_files() {
    mkdir "/s3/$1"
    for n in $(seq "$2"); do dd if=/dev/urandom of="/s3/$1/$n" bs=64k count=16 2>/dev/null; done
    (cd "/s3/$1" && sha256sum * >"/s3/$1.sums")
    sync
  }
`;

/** `check_files NAME`: fails unless they are as they were made. */
export const CHECK_FILES = `
  check_files() { (cd "/s3/$1" && sha256sum -c "/s3/$1.sums" >/dev/null) && echo "intact: $1"; }
`;
