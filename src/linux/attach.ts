/**
 * `elasticdrive attach` and `detach`: nbd-client's job, for a host that has none.
 *
 * Attaching hands a connection to the running server over to the kernel and ends; nothing has to stay. From then on
 *
 * - a request of the kernel waits for its answer as long as it takes: no timeout is set, so ten minutes without S3 are
 *   ten minutes of waiting, and of "Possible stuck request" lines in the kernel's log;
 * - when the server ends, requests wait for another connection, and attaching again, which is what the server's unit does
 *   after each start, gives them one. Those that were under way are sent again when the kernel next looks at
 *   them, every 10 s (ATTACH_LOOK_MS).
 *
 * Both rest on the kernel's time for a request being 0 (drivers/block/nbd.c, nbd_xmit_timeout). With another it would
 * declare the connection dead whenever S3 is slow, and nobody would be there to bring a new one.
 *
 * A device keeps its disk, which the kernel knows by the name that it was given as its backend: the volume, and the epoch
 * since which that has forgotten nothing (`Volume.unbrokenSince`). A stop stores everything, so a server that was stopped
 * and started again is the same disk; so is one that was killed and whose journal the next start had (src/journal).
 * One that was killed without a journal is not: what it had acknowledged and not yet stored is gone, the kernel has
 * dropped its own copy, and the next fsync would be a lie. Then what waits fails, so that the file
 * system stops and knows it, and the device can be attached anew once it is unmounted: what was flushed is there.
 *
 * Seen on Debian's 6.1.192 (tests/vm/attach_test.ts): 600 s without S3 failed nothing. With the kernel's own 30 s the
 * writes under way when a server ended went on 30 s after they were sent. Requests longer than the kernel's 128 KiB,
 * and more read-ahead, were no faster: that is left as it is.
 */
import { type Clock, sleep } from "../clock.ts";
import { messageOf, UsageError } from "../errors.ts";
import {
  ATTACH_DEAD_CONNECTION_S,
  ATTACH_LOOK_MS,
  ATTACH_OFFER_MS,
  ATTACH_OFFERS,
  BLOCK_BYTES,
} from "../limits.ts";
import { showBytes } from "../progress.ts";
import { usersOf } from "./device_users.ts";
import { connectToDrive, type DriveConnection, type ServerAddress } from "./drive_connection.ts";
import {
  ClaimedDevice,
  EBUSY,
  EINVAL,
  EPERM,
  ErrnoError,
  listSystemFolder,
  readSystemFile,
  writeSystemFile,
} from "./libc.ts";
import { NbdControl } from "./nbd_control.ts";

/**
 * Attaches the drive that is served at `server` as `device`, or makes sure that it still is. Resolves to a line that
 * says which. Throws a UsageError that says what to do.
 */
export async function attach(
  device: string,
  server: ServerAddress,
  clock: Clock,
): Promise<string> {
  const index = indexOf(device);
  return await refusing(device, async () => {
    using control = openControl();
    const attached = attachedAs(index);
    using drive = await connectToDrive(server);
    if (attached === undefined) return connect(control, index, drive);
    if (isSameDisk(drive, attached)) return await revive(control, index, attached, server, clock);
    control.disconnect(index);
    const why = "the server before ended without storing all that was written to the device";
    try {
      claim(index)[Symbol.dispose]();
    } catch (error) {
      throw new UsageError(`cut off, because ${why}; ${messageOf(error)}, then attach it again`);
    }
    return `${connect(control, index, drive)}; anew, because ${why}`;
  });
}

function connect(control: NbdControl, index: number, drive: DriveConnection): string {
  control.connect(index, drive.socket, {
    sizeBytes: drive.sizeBytes,
    blockBytes: BLOCK_BYTES,
    transmissionFlags: drive.transmissionFlags,
    deadConnectionS: ATTACH_DEAD_CONNECTION_S,
    backend: backendOf(drive),
  });
  writeSystemFile(`/sys/block/nbd${index}/queue/io_timeout`, String(ATTACH_LOOK_MS));
  return `/dev/nbd${index}: attached, ${showBytes(drive.sizeBytes)}, ${drive.description}`;
}

/**
 * Stores what was written to `device` and detaches it; resolves to a line that says so, also if it was not attached.
 * Throws a UsageError if it is in use. `force` fails the requests that wait, whoever made them.
 */
export async function detach(
  device: string,
  server: ServerAddress,
  clock: Clock,
  force: boolean,
): Promise<string> {
  const index = indexOf(device);
  return await refusing(device, async () => {
    const attached = attachedAs(index);
    if (attached === undefined) return `${device}: not attached`;
    using control = openControl();
    if (force) {
      control.disconnect(index);
      return `${device}: detached; what was not stored yet has failed`;
    }
    using drive = await connectToDrive(server);
    const isSame = isSameDisk(drive, attached);
    // while its connection is dead, opening the device may wait for ever, and storing will
    if (isSame) await revive(control, index, attached, server, clock);
    else control.disconnect(index);
    using claimed = claim(index);
    if (isSame) claimed.sync();
    control.disconnect(index);
    const end = isSame ? "everything is stored" : "the server before had not stored everything";
    return `${device}: detached, ${end}`;
  });
}

interface Attached {
  /** "" if another program has attached it: nbd-client gives none. */
  backend: string;
  sizeBytes: number;
}

/** What the kernel says of a device that has a connection, alive or dead. */
function attachedAs(index: number): Attached | undefined {
  const folder = `/sys/block/nbd${index}`;
  if (readSystemFile(`${folder}/pid`) === undefined) return undefined;
  return {
    backend: readSystemFile(`${folder}/backend`)?.trim() ?? "",
    sizeBytes: Number(readSystemFile(`${folder}/size`)) * 512,
  };
}

const BACKEND = /^elasticdrive (\S+) (\d+)$/;

function backendOf({ identity }: DriveConnection): string {
  return `elasticdrive ${identity.uuid} ${identity.unbrokenSince}`;
}

/** False if the device's volume has forgotten something since. Throws a UsageError if it is none of this server's. */
function isSameDisk(drive: DriveConnection, { backend, sizeBytes }: Attached): boolean {
  const found = BACKEND.exec(backend);
  if (!found) {
    throw new UsageError("attached by another program, such as nbd-client; detach it with that");
  }
  if (found[1] !== drive.identity.uuid) {
    throw new UsageError(
      `attached to another volume (${found[1]}) than that of ${drive.description}; detach it ` +
        "first, or choose another device",
    );
  }
  if (drive.sizeBytes < sizeBytes) {
    throw new UsageError(
      `has ${showBytes(sizeBytes)}, and the drive has only ${showBytes(drive.sizeBytes)} now`,
    );
  }
  return backend === backendOf(drive);
}

/**
 * Gives the device another connection to its drive if the one it has is dead. The kernel does not say whether it is, but
 * a connection that it took is still there when we have let go of it.
 */
async function revive(
  control: NbdControl,
  index: number,
  attached: Attached,
  server: ServerAddress,
  clock: Clock,
): Promise<string> {
  for (let offer = 1; offer <= ATTACH_OFFERS; offer++) {
    using drive = await connectToDrive(server);
    control.reconnect(index, drive.socket, attached.backend);
    if (drive.letGo() === "the kernel has it") {
      return `/dev/nbd${index}: attached again, ${sizeOf(drive, attached)}, ${drive.description}`;
    }
    if (offer < ATTACH_OFFERS) await sleep(clock, ATTACH_OFFER_MS);
  }
  return `/dev/nbd${index}: attached already, and its connection lives`;
}

/** A device that is in use never changes its size: the kernel could deadlock, and a file system would not notice. */
function sizeOf(drive: DriveConnection, attached: Attached): string {
  const size = showBytes(attached.sizeBytes);
  if (drive.sizeBytes === attached.sizeBytes) return size;
  return `${size} (${showBytes(drive.sizeBytes)} once it is detached and attached anew)`;
}

/** Nobody can mount it from now on. */
function claim(index: number): ClaimedDevice {
  try {
    return ClaimedDevice.open(`/dev/nbd${index}`);
  } catch (error) {
    if (!(error instanceof ErrnoError) || error.errno !== EBUSY) throw error;
    const users = usersOf(index, { read: readSystemFile, list: listSystemFolder });
    const by = users.length > 0 ? users.join(", ") : "a program, or another mount namespace";
    throw new UsageError(`in use: ${by}; end that first`);
  }
}

function indexOf(device: string): number {
  const digits = /^\/dev\/nbd(\d{1,6})$/.exec(device)?.[1];
  if (digits !== undefined) return Number(digits);
  throw new UsageError(
    `"${device}" is not the name of an NBD device; allowed: /dev/nbd0, /dev/nbd1, ...`,
  );
}

function openControl(): NbdControl {
  const control = NbdControl.open();
  if (control !== undefined) return control;
  throw new UsageError("this kernel's NBD client is not loaded; as root: modprobe nbd");
}

/** Does the work, and says of which device it is refused, and why. */
async function refusing(device: string, work: () => Promise<string>): Promise<string> {
  try {
    return await work();
  } catch (error) {
    if (error instanceof UsageError) throw new UsageError(`${device}: ${error.message}`);
    if (!(error instanceof ErrnoError)) throw error;
    throw new UsageError(`${device}: ${hintOf(error) ?? error.message}`);
  }
}

function hintOf({ errno, what }: ErrnoError): string | undefined {
  if (errno === EPERM) return "only root may attach and detach (CAP_SYS_ADMIN)";
  if (errno === EBUSY) return "is being attached by another program, or is not yet let go of";
  if (errno === EINVAL) return `${what}: the kernel refuses; its reason is in dmesg`;
  return undefined;
}
