/** Steps of sh for the scripts of guests. */
import type { Drive } from "../support/drive.ts";

/** A way to make a drive of this machine /dev/nbd0 of the guest; the device is there when it ends. */
export interface NbdAttacher {
  attach: (drive: Drive) => string;
  /** Stores nothing by itself: what is to be stored is synced or unmounted before. */
  detach: string;
}

/** Debian's nbd-client, as the original's README spells it: today's still takes that, with a warning. */
export const NBD_CLIENT = nbdClient("bs=4096");
/** The same for one side of a mirror: what waits for a server that died fails, and the other side goes on. */
export const NBD_CLIENT_OF_MIRROR = nbdClient("bs=4096 timeout=5");

function nbdClient(options: string): NbdAttacher {
  return {
    attach: ({ port }) => `
      modprobe nbd
      nbd-client ${options} 10.0.2.2 ${port} /dev/nbd0
      until [ -e /sys/block/nbd0/pid ]; do usleep 20000; done
    `,
    detach: "nbd-client -d /dev/nbd0",
  };
}

const OWN = "/program/elasticdrive -c /run/elasticdrive.ini";

/** Our own. */
export const OURS: NbdAttacher = {
  attach: ({ port }) => `
    modprobe nbd
    cat >/run/elasticdrive.ini <<'END'
[s3]
BUCKET=file:/another/machine/has/it
[server]
listen=10.0.2.2
insecure=yes
port=${port}
END
    ${OWN} attach /dev/nbd0
  `,
  detach: `${OWN} detach /dev/nbd0`,
};

/** Waits until both sides of a mirror are there and the same. */
export const UNTIL_MIRRORED = `
  of_mirror() { cat /sys/block/md0/md/$1; }
  until [ "$(of_mirror degraded)" = 0 ] && [ "$(of_mirror resync_start)" = none ]; do usleep 100000; done
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
