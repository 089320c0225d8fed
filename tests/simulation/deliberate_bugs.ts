/**
 * `deno task bugs [seeds [words]]`: shows that the simulation bites; see tests/support/bug_hunt.ts.
 */
import { type Bug, type Hunt, hunt } from "../support/bug_hunt.ts";

const BUGS: Bug[] = [
  {
    what: "batches are applied as they are stored, not in order",
    file: "flush.ts",
    from: "const batch = this.#batches[0];",
    to: "const batch = this.#batches.sort((a, b) => a.underWay - b.underWay)[0];",
  },
  {
    what: "a flush is answered when its batch is sealed",
    file: "flush.ts",
    from: "this.#batches.push(batch);",
    to: "this.#batches.push(batch); batch.committed.resolve();",
  },
  {
    what: "a flush with nothing dirty does not wait for what is under way",
    file: "flush.ts",
    from: "return this.#batches.at(-1)?.committed.promise;",
    to: "return undefined;",
  },
  {
    what: "pending zeroes are left out of the batch",
    file: "flush.ts",
    from: "zeroRuns: [...sealedZeroes],",
    to: "zeroRuns: [],",
  },
  {
    what: "no segment but the last of a batch is waited for",
    file: "flush.ts",
    from: "!isFilled(batch) || batch.underWay > 0",
    to: "!isFilled(batch) || batch.underWay > 1",
  },
  {
    what: "the oldest patch of a stripe is forgotten",
    file: "stripe_map.ts",
    from: "page.setPatches(index, kept.slice());",
    to: "page.setPatches(index, kept.slice(-2));",
  },
  {
    what: "zeroes over a part of a stripe are not noted in the map",
    file: "stripe_map.ts",
    from: "if (!this.isMapped(stripe)) return;",
    to: "if (!this.isMapped(stripe) || firstBlock % 2 === 0) return;",
  },
  {
    what: "a sealed stripe that is overwritten is not saved first",
    file: "sealed_stripes.ts",
    from: "for (const entry of entries) entry.saved = saved;",
    to: "for (const entry of entries) entry.saved = null;",
  },
  {
    what: "a slot that a batch or a fetch has makes way for what has arrived in a place",
    file: "stripe_cache.ts",
    from: "if (this.#pins[slot] > ownPins) return false;",
    to: "",
  },
  {
    what: "what has arrived in a place overtakes changes that wait",
    file: "write.ts",
    from: "if (!this.#order.isIdle) return false;",
    to: "",
  },
  {
    what: "what arrives in a place needs no room",
    file: "write.ts",
    from: "if (newlyDirty > roomStripes) return false;",
    to: "",
  },
  {
    what: "a place that is used up can still be given back",
    file: "write.ts",
    from: "if (isUsedUp) return;",
    to: "",
  },
  {
    what: "what is sealed of changes that belong together is whole by itself",
    file: "flush.ts",
    from: "    this.#isTogether = true;\n",
    to: "",
  },
  {
    what: "what is sealed takes no room",
    file: "contents.ts",
    from: "dirtySlots.size - sealedStripes",
    to: "dirtySlots.size",
  },
  {
    what: "what is sealed and not stored counts as a hole",
    file: "extents.ts",
    from: "const isPinned = slot >= 0 && !cache.isClean(slot);",
    to: "const isPinned = slot >= 0 && cache.hasDirty(slot);",
  },
  {
    what: "a fetch brings older bytes over newer ones",
    file: "fetch.ts",
    from: "      !cache.isValid(fetch.slot, block);\n    cache.sealed.beforeOverwrite",
    to: "      true;\n    cache.sealed.beforeOverwrite",
  },
  {
    what: "a fetch makes zeroes of what it was not asked for",
    file: "fetch.ts",
    from: "new Uint32Array(blocksPerStripe).fill(NOT_WANTED)",
    to: "new Uint32Array(blocksPerStripe)",
  },
  {
    what: "what comes along with a part is kept though a newer record has it",
    file: "fetch.ts",
    from: "if (this.#numberOf(fetch, records, block) === number) sourceOf",
    to: "sourceOf",
  },
  {
    what: "a read that shares a fetch does not look what has come",
    file: "read.ts",
    from: "if (!this.#copyOut(part.stripe, part.from, targetOf(part))) missing.push(part);",
    to:
      "if (!this.#copyOut(part.stripe, part.from, targetOf(part)) && isFirst) missing.push(part);",
  },
  {
    what: "a trim leaves what is in the cache",
    file: "trim.ts",
    from: "      cache.invalidate(slot, from - begin, to - from);",
    to: "",
  },
  {
    what: "a refused put counts as stored, whoever has the place",
    file: "uploader.ts",
    from: "if (head.writer === writer.id) return undefined;",
    to: "if (head.writer) return undefined;",
  },
  {
    what: "the epoch is ignored: what has the place is always a leftover",
    file: "uploader.ts",
    from: "if (head.epoch >= leftoverBelow) return { by: head };",
    to: "",
  },
  {
    what: "a leftover is deleted, and then the place is free for anybody",
    file: "uploader.ts",
    from: "if (head.epoch >= leftoverBelow) return { by: head };",
    to:
      "if (head.epoch >= leftoverBelow) return { by: head }; await bucket.delete([key]); there = null;",
  },
  {
    what: "segments are put without a condition",
    file: "uploader.ts",
    from: "bucket.put(key, bytes, condition)",
    to: "bucket.put(key, bytes)",
  },
  {
    what: "a claim does not make the epoch higher",
    file: "recovery.ts",
    from: "epoch: log.highestEpoch + 1, id",
    to: "epoch: Math.max(1, log.highestEpoch), id",
  },
  {
    what: "opening applies a batch whose last segment is missing",
    file: "recovery.ts",
    from: "if (!head.lastOfBatch) return;",
    to: "",
  },
  {
    what: "opening reads on behind a segment of a lower epoch",
    file: "recovery.ts",
    from: "if (head.epoch < this.highestEpoch) return this.#damageAtEnd(listed.slice(at));",
    to: "",
  },
  {
    what: "a writer promises that more is stored than it knows",
    file: "flush.ts",
    from: "storedUpTo: this.#uploader.storedUpTo,",
    to: "storedUpTo: seq - 1,",
  },
  {
    what: "a checkpoint is taken of a batch of which the map has a part",
    file: "checkpoint_schedule.ts",
    from: " && !this.#flush.isCommitting",
    to: "",
  },
  {
    what: "what changed while a checkpoint was stored is left out of the next one",
    file: "stripe_map.ts",
    from: "if (isStored) return;",
    to: "if (isStored) return this.#changed.clear();",
  },
  {
    what: "dead segments are deleted before the checkpoint is stored",
    file: "checkpoint_schedule.ts",
    from: "const stored = await this.#checkpointer.store(seq);",
    to:
      "const { segments } = this.#contents.map; const dead = [...segments].filter(([, use]) => use.liveBytes === 0).map(([seq]) => seq); await this.#reclaimer.deleteDead({ dead, olderSeq: seq }); const stored = await this.#checkpointer.store(seq);",
  },
  {
    what: "of a map that a writer may still clean up nothing is stored anew",
    file: "recovery.ts",
    from: "if (checkpoint && checkpoint.epoch < releasedSince) log.map.changeAll();",
    to: "",
  },
  {
    what: "a lease that was not released counts for one that was",
    file: "lease.ts",
    from: "return { ...told, state };",
    to: "return { ...told, state, releasedSince };",
  },
  {
    what: "segments are deleted while a little of them is live",
    file: "checkpoint_format.ts",
    from: "if (liveBytes === 0) dead.push(seqs[row]);",
    to: "if (liveBytes < 5000) dead.push(seqs[row]);",
  },
  {
    what: "claims are deleted like any dead segment",
    file: "recovery.ts",
    from: "if (head.records.length === 0) return void this.map.claims.add(head.seq);",
    to: "",
  },
  {
    what: "what nobody knows is never swept away",
    file: "reclaim.ts",
    from: "if (this.#hasSwept || olderSeq === 0) return;",
    to: "if (olderSeq >= 0) return;",
  },
];

export const SIMULATION: Hunt = {
  bugs: BUGS,
  folder: "src/volume",
  script: "tests/simulation/run.ts",
};

if (import.meta.main) await hunt(SIMULATION, 5000);
