/** Connections that end at a byte, whichever: in clear, in the handshake of TLS and in a record. */
import { Seed } from "../simulation/seed.ts";
import { RECORD_OVERHEAD_BYTES } from "../support/tls_client.ts";
import { type Attack, Life, type MakeLink, type Totals } from "./fuzz.ts";
import type { Disk } from "./reference.ts";
import { type Frames, join, u32 } from "./sessions.ts";
import type { Spoil, TlsFuzzConn } from "./tls.ts";

/**
 * Has clients send the first bytes of one session, as many as `cuts` says each, and go; both ways of going, with a device
 * that is quick and one that is not.
 */
export async function cutAt(cuts: number[], make: (disk: Disk) => Frames): Promise<Totals> {
  const totals: Totals = { sessions: 0, frames: 0, bytes: 0, answers: 0 };
  const life = new Life(new Seed(1), 64 << 10);
  await life.begin();
  const bytes = join(...make(life.disk));
  for (const cut of cuts.filter((cut) => cut <= bytes.length)) {
    for (const slow of ["nothing", "changes"] as const) {
      for (const isAbrupt of [false, true]) {
        const plan = life.planOf(bytes.subarray(0, cut), isAbrupt, slow);
        const where = `cut at ${cut}, ${slow} slow, ${isAbrupt ? "closed" : "shut down"}`;
        await life.session(plan, totals).catch((error) => {
          throw new Error(`${where}: ${error.message}`, { cause: error });
        });
        totals.sessions++;
      }
    }
  }
  await life.end();
  return totals;
}

/**
 * The same by TLS: in the handshake, at every byte of it, and in the records behind it, one a message. Returns how many
 * sessions there were.
 */
export async function cutTlsAtEveryByte(
  makeLink: MakeLink,
  make: (disk: Disk) => Frames,
): Promise<number> {
  const seed = new Seed(1);
  const life = new Life(seed, 64 << 10, makeLink(seed));
  await life.begin();
  const totals: Totals = { sessions: 0, frames: 0, bytes: 0, answers: 0 };
  const live = async (bytes: Uint8Array, attack: Attack, where: string) => {
    await life.session(life.planOf(bytes, seed.chance(0.5), "nothing", attack), totals)
      .catch((error) => {
        throw new Error(`cut at ${where}: ${error.message}`, { cause: error });
      });
    totals.sessions++;
  };
  let handshakeBytes = 1;
  for (let cut = 0; cut < handshakeBytes; cut++) {
    const spoil: Spoil = (flight, sent) => {
      handshakeBytes = Math.max(handshakeBytes, sent + flight.length);
      return cut - sent >= flight.length ? flight : flight.subarray(0, cut - sent);
    };
    await live(u32(3), { spoil }, `byte ${cut} of the handshake`);
  }
  const frames = [u32(3), ...make(life.disk).slice(1)];
  for (let index = 1; index < frames.length; index++) {
    const before = join(...frames.slice(0, index));
    for (let cut = 1; cut < frames[index].length + RECORD_OVERHEAD_BYTES; cut++) {
      const attack = (conn: TlsFuzzConn) => conn.sendPart(frames[index], cut);
      await live(before, { attack }, `byte ${cut} of record ${index}`);
    }
  }
  await life.end();
  return totals.sessions;
}
