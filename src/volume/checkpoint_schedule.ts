/**
 * When a checkpoint is stored: after so many segments, or so long with changes, and whenever it is asked for. Behind each
 * goes what is dead.
 *
 * What was trimmed is taken from the live bytes of its segments first (`StripeMap.settle`), a few milliseconds a turn.
 */
import { type Clock, sleep } from "../clock.ts";
import { messageOf } from "../errors.ts";
import { CHECKPOINT_MS, CHECKPOINT_SEGMENTS } from "../limits.ts";
import type { Logger } from "../logger.ts";
import type { Checkpointer } from "./checkpoint.ts";
import type { Contents } from "./contents.ts";
import type { FlushPath } from "./flush.ts";
import type { Reclaimer } from "./reclaim.ts";

export class CheckpointSchedule {
  /** How many were stored. */
  stored = 0;
  readonly #contents: Contents;
  readonly #flush: FlushPath;
  readonly #checkpointer: Checkpointer;
  readonly #reclaimer: Reclaimer;
  readonly #clock: Clock;
  readonly #logger: Logger;
  #isSettling = false;
  #underWay: Promise<boolean> | null = null;
  #cancelTimer: (() => void) | null = null;

  constructor(
    contents: Contents,
    flush: FlushPath,
    checkpointer: Checkpointer,
    reclaimer: Reclaimer,
    logger: Logger,
  ) {
    this.#contents = contents;
    this.#flush = flush;
    this.#checkpointer = checkpointer;
    this.#reclaimer = reclaimer;
    this.#clock = contents.clock;
    this.#logger = logger;
  }

  /** To be called after each commit. */
  committed(): void {
    if (!this.#isSettling) this.#settle(); // and considers to reclaim
    const due = this.#flush.committedSeq - this.#checkpointer.newestSeq >= CHECKPOINT_SEGMENTS;
    if (due) {
      this.store();
    } else {
      this.#cancelTimer ??= this.#clock.after(CHECKPOINT_MS, () => {
        this.#cancelTimer = null;
        this.store();
      });
    }
  }

  /** Stores one, or waits for the one under way; false if there is none of this seq then. */
  store(): Promise<boolean> {
    this.#underWay ??= this.#store().finally(() => this.#underWay = null);
    return this.#underWay;
  }

  /** Resolves when none is under way. */
  async idle(): Promise<void> {
    await this.#underWay;
  }

  /** None begins by itself before the next commit. */
  stop(): void {
    this.#cancelTimer?.();
    this.#cancelTimer = null;
  }

  async #settle(): Promise<void> {
    this.#isSettling = true;
    const { map } = this.#contents;
    if (!map.isSettled) {
      const turn = this.#contents.turn();
      await turn.next(); // that of a commit has had its share
      while (map.settle(1)) if (turn.isOver) await turn.next();
    }
    this.#isSettling = false;
    this.#reclaimer.consider();
  }

  async #store(): Promise<boolean> {
    const isReady = () => this.#contents.map.isSettled && !this.#flush.isCommitting;
    while (!isReady() && this.#contents.failure === null) await sleep(this.#clock, 0);
    const seq = this.#flush.committedSeq;
    if (this.#contents.failure || seq === this.#checkpointer.newestSeq) return false;
    if (this.#flush.isContinued) return false; // no wait: that may take as long as the bucket is away
    this.stop();
    try {
      const stored = await this.#checkpointer.store(seq);
      this.stored++;
      await this.#reclaimer.deleteDead(stored);
      this.#logger.debug(() => `checkpoint ${seq} stored`);
      return true;
    } catch (error) {
      // the log has everything a checkpoint has: opening takes longer, nothing is lost
      const text = messageOf(error);
      this.#logger.warn(`checkpoint ${seq} not stored: ${text}`, "checkpoint", text);
      return false;
    }
  }
}
