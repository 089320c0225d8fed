/**
 * `elasticdrive attach` and `detach`: nbd-client's job, for a host that has none.
 *
 * Attaching hands a connection to the running server over to the kernel and ends; nothing has to stay. From then on
 *
 * - a request of the kernel waits for its answer as long as it takes: no timeout is set, so ten minutes without S3 are
 *   ten minutes of waiting (and of "Possible stuck request" lines of the kernel, every 30 s);
 * - when the server dies, requests wait for another connection. Attaching again, which is what the unit of the server
 *   does after each start, gives them one. Those that were under way are then sent again, when the kernel
 *   next looks at them: at most 30 s later.
 *
 * Both rest on the kernel's time for a request being 0 (drivers/block/nbd.c, nbd_xmit_timeout). With another it would
 * declare the connection dead whenever S3 is slow, and nobody would be there to bring a new one.
 *
 * A device that is attached is known by the uuid of its volume, which the kernel keeps as the device's backend: no other
 * volume can get under a file system that is mounted.
 */
import { type Clock, sleep } from "../clock.ts";
import { UsageError } from "../errors.ts";
import {
  ATTACH_DEAD_CONNECTION_S,
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
    if (attached !== undefined) return await revive(control, index, attached, server, clock);
    using drive = await connectToDrive(server);
    control.connect(index, drive.socket, {
      sizeBytes: drive.sizeBytes,
      blockBytes: BLOCK_BYTES,
      transmissionFlags: drive.transmissionFlags,
      deadConnectionS: ATTACH_DEAD_CONNECTION_S,
      backend: backendOf(drive),
    });
    return `${device}: attached, ${showBytes(drive.sizeBytes)}, ${drive.description}`;
  });
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
    using claimed = claim(index);
    // a connection that has died would let the sync wait for ever
    await revive(control, index, attached, server, clock);
    claimed.sync();
    control.disconnect(index);
    return `${device}: detached, everything is stored`;
  });
}

interface Attached {
  /** Undefined if somebody else has attached it: nbd-client names none. */
  backend: string | undefined;
  sizeBytes: number;
}

/** What the kernel says of a device that has a connection, alive or dead. */
function attachedAs(index: number): Attached | undefined {
  const folder = `/sys/block/nbd${index}`;
  if (readSystemFile(`${folder}/pid`) === undefined) return undefined;
  return {
    backend: readSystemFile(`${folder}/backend`)?.trim(),
    sizeBytes: Number(readSystemFile(`${folder}/size`)) * 512,
  };
}

function backendOf(drive: DriveConnection): string {
  return `elasticdrive ${drive.volume}`;
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
  const device = `/dev/nbd${index}`;
  if (attached.backend === undefined) {
    throw new UsageError("another program has attached it; detach it with that one first");
  }
  for (let offer = 1; offer <= ATTACH_OFFERS; offer++) {
    using drive = await connectToDrive(server);
    refuseAnother(drive, attached);
    control.reconnect(index, drive.socket, attached.backend);
    if (drive.isHeldByKernel()) return `${device}: attached again, ${drive.description}`;
    if (offer < ATTACH_OFFERS) await sleep(clock, ATTACH_OFFER_MS);
  }
  return `${device}: is attached and its connection lives`;
}

function refuseAnother(drive: DriveConnection, { backend, sizeBytes }: Attached): void {
  if (backend !== backendOf(drive)) {
    throw new UsageError(
      `attached to another drive (${backend}), and ${drive.description} can't take its place; ` +
        "detach it first, or choose another device",
    );
  }
  if (drive.sizeBytes < sizeBytes) {
    throw new UsageError(
      `has ${showBytes(sizeBytes)}, and the drive has only ${showBytes(drive.sizeBytes)} now`,
    );
  }
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
  throw new UsageError(`"${device}" can't be attached to; allowed: /dev/nbd0, /dev/nbd1, ...`);
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
