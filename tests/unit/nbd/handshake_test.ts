import { assert, assertEquals, assertStringIncludes } from "@std/assert";
import { CONNECTIONS_MAX, HANDSHAKE_MS_MAX } from "../../../src/limits.ts";
import type { Logger } from "../../../src/logger.ts";
import * as nbd from "../../../src/nbd/constants.ts";
import { ManualClock, settle } from "../../support/manual_clock.ts";
import {
  exportRequest,
  join,
  metaContexts,
  MIB,
  optionBytes,
  pattern,
  serving,
  test,
  u16,
  u32,
  until,
  viewOf,
} from "./session.ts";

/** HAS_FLAGS, FLUSH, FUA, TRIM, WRITE_ZEROES, CAN_MULTI_CONN, CACHE, FAST_ZERO. */
const FLAGS = 1 | 4 | 8 | 32 | 64 | 256 | 1024 | 2048;
const DF = 128;
const INFO_EXPORT = join(u16(0), u32(0), u32(4 * MIB), u16(FLAGS));
const text = (bytes: Uint8Array) => new TextDecoder().decode(bytes);
const bytesOf = (value: string) => new TextEncoder().encode(value);

/** A logger that keeps what it is told. */
function keepingLogger(): Logger & { lines: string[] } {
  const lines: string[] = [];
  const keep = (message: string) => void lines.push(message);
  return { lines, error: keep, warn: keep, info: keep, debug() {} };
}

test("a client goes to the disk by its name and by the empty name", () =>
  serving(async ({ connect }) => {
    for (const name of ["", "disk"]) {
      const client = await connect();
      await client.greet();
      const replies = await client.option(nbd.NBD_OPT_GO, exportRequest(name));
      assertEquals(replies.map((reply) => reply.type), [nbd.NBD_REP_INFO, nbd.NBD_REP_ACK]);
      assertEquals(replies[0]!.data, INFO_EXPORT);
      assertEquals((await client.call({ type: nbd.NBD_CMD_READ, length: 8 })).errno, 0);
    }
  }));

test("a client that asks learns name, description and block sizes, and what it asks in vain is ignored", () =>
  serving(async ({ connect }) => {
    const client = await connect();
    await client.greet();
    const data = exportRequest("", [3, 999, 1, 2]);
    for (const option of [nbd.NBD_OPT_INFO, nbd.NBD_OPT_GO]) {
      const replies = await client.option(option, data);
      assertEquals(replies.map((reply) => reply.data), [
        INFO_EXPORT,
        join(u16(1), bytesOf("disk")),
        join(u16(2), bytesOf("a disk for tests")),
        join(u16(3), u32(1), u32(65536), u32(32 * MIB)),
        new Uint8Array(0),
      ]);
    }
  }));

test("a wrong name is refused by a message that says the right ones, and negotiation goes on", () =>
  serving(async ({ connect }) => {
    const client = await connect();
    await client.greet();
    for (const option of [nbd.NBD_OPT_INFO, nbd.NBD_OPT_GO]) {
      const [reply] = await client.option(option, exportRequest("disc"));
      assertEquals(reply!.type, nbd.NBD_REP_ERR_UNKNOWN);
      assertStringIncludes(text(reply!.data), '"disk"');
    }
    assertEquals((await client.option(nbd.NBD_OPT_GO, exportRequest("disk"))).length, 2);
  }));

test("options that this server does not know, or that are malformed, get an error and negotiation goes on", () =>
  serving(async ({ connect }) => {
    const client = await connect();
    await client.greet();
    const replyType = async (option: number, data?: Uint8Array) =>
      (await client.option(option, data)).at(-1)!.type;
    for (
      const option of [0, 4, nbd.NBD_OPT_STARTTLS, nbd.NBD_OPT_EXTENDED_HEADERS, 12345, 0xffffffff]
    ) {
      assertEquals(await replyType(option, pattern(9)), nbd.NBD_REP_ERR_UNSUP, `option ${option}`);
    }
    for (const option of [nbd.NBD_OPT_LIST, nbd.NBD_OPT_STRUCTURED_REPLY]) {
      assertEquals(await replyType(option, pattern(1)), nbd.NBD_REP_ERR_INVALID);
    }
    for (const data of [pattern(0), pattern(5), join(u32(100), u16(0)), join(u32(0), u16(1))]) {
      assertEquals(await replyType(nbd.NBD_OPT_GO, data), nbd.NBD_REP_ERR_INVALID);
      assertEquals(await replyType(nbd.NBD_OPT_INFO, data), nbd.NBD_REP_ERR_INVALID);
    }
    assertEquals(await replyType(4711, pattern(MIB)), nbd.NBD_REP_ERR_TOO_BIG);
    assertEquals(await replyType(nbd.NBD_OPT_GO, exportRequest("")), nbd.NBD_REP_ACK);
  }));

test("structured replies can be asked for once or twice, and bring DF with them", () =>
  serving(async ({ connect }) => {
    for (const times of [1, 2]) {
      const client = await connect();
      await client.greet();
      for (let i = 0; i < times; i++) {
        const [reply] = await client.option(nbd.NBD_OPT_STRUCTURED_REPLY);
        assertEquals(reply!.type, nbd.NBD_REP_ACK);
      }
      const [info] = await client.option(nbd.NBD_OPT_GO, exportRequest(""));
      assertEquals(viewOf(info!.data).getUint16(10), FLAGS | DF);
    }
  }));

test("a disk served read-only says so, and offers nothing that would change it", () =>
  serving(async ({ connect }) => {
    const client = await connect();
    await client.greet();
    const [info] = await client.option(nbd.NBD_OPT_GO, exportRequest(""));
    assertEquals(viewOf(info!.data).getUint16(10), 1 | 2 | 4 | 8 | 256 | 1024);
  }, { readOnly: true }));

test("base:allocation is listed and selected by the queries that proto.md allows, and by no other", () =>
  serving(async ({ connect }) => {
    const client = await connect();
    await client.greet();
    const { NBD_OPT_LIST_META_CONTEXT: LIST, NBD_OPT_SET_META_CONTEXT: SET } = nbd;
    const found = async (option: number, ...queries: string[]) => {
      const replies = await client.option(option, metaContexts("disk", ...queries));
      assertEquals(replies.at(-1)!.type, nbd.NBD_REP_ACK, `${option} ${queries}`);
      return replies.slice(0, -1).map(({ type, data }) => {
        assertEquals(type, nbd.NBD_REP_META_CONTEXT);
        return [viewOf(data).getUint32(0), text(data.subarray(4))];
      });
    };
    const refusal = async (option: number, data: Uint8Array) =>
      (await client.option(option, data)).map(({ type }) => type);

    for (const option of [LIST, SET]) {
      assertEquals(await refusal(option, metaContexts("disk")), [nbd.NBD_REP_ERR_INVALID]);
    }
    await client.option(nbd.NBD_OPT_STRUCTURED_REPLY);
    for (const queries of [[], ["base:"], ["x-none:", "base:allocation"]]) {
      assertEquals(await found(LIST, ...queries), [[0, "base:allocation"]]);
    }
    for (const queries of [["base:other"], ["qemu:dirty-bitmap:a"], ["base:allocation2"]]) {
      assertEquals(await found(LIST, ...queries), []);
      assertEquals(await found(SET, ...queries), []);
    }
    assertEquals(await found(SET), []);
    assertEquals(await found(SET, "base:"), []);
    assertEquals(await found(SET, "base:allocation", "qemu:all"), [[1, "base:allocation"]]);
    const query = metaContexts("disk", "base:allocation");
    for (const option of [LIST, SET]) {
      for (const wrong of ["base", ":allocation", ""]) {
        assertEquals(await refusal(option, metaContexts("disk", wrong)), [nbd.NBD_REP_ERR_INVALID]);
      }
      for (let length = 0; length < query.length; length++) {
        const cut = query.subarray(0, length);
        assertEquals(await refusal(option, cut), [nbd.NBD_REP_ERR_INVALID], `cut at ${length}`);
      }
      assertEquals(await refusal(option, join(query, u16(0))), [nbd.NBD_REP_ERR_INVALID]);
      assertEquals(await refusal(option, metaContexts("disc")), [nbd.NBD_REP_ERR_UNKNOWN]);
    }
  }));

test("block status is served for the export it was selected for, as long as the selection holds", () =>
  serving(async ({ connect }) => {
    const { NBD_OPT_SET_META_CONTEXT: SET } = nbd;
    const selected = metaContexts("disk", "base:allocation");
    const cases: [string, Uint8Array[], boolean][] = [
      ["disk", [selected], true],
      ["", [selected], false],
      ["", [metaContexts("", "base:allocation")], true],
      ["disk", [selected, metaContexts("disk")], false],
      ["disk", [selected, metaContexts("disc", "base:allocation")], false],
      ["disk", [selected, pattern(3)], false],
      ["disk", [pattern(3), selected], true],
      ["disk", [], false],
    ];
    for (const [name, selections, isServed] of cases) {
      const client = await connect();
      await client.greet();
      await client.option(nbd.NBD_OPT_STRUCTURED_REPLY);
      for (const data of selections) await client.option(SET, data);
      await client.option(nbd.NBD_OPT_GO, exportRequest(name));
      const [chunk] = await client.chunks({ type: nbd.NBD_CMD_BLOCK_STATUS, length: 4096 });
      const type = isServed ? nbd.NBD_REPLY_TYPE_BLOCK_STATUS : nbd.NBD_REPLY_TYPE_ERROR;
      assertEquals(chunk!.type, type, `${name} ${selections.map(text)}`);
    }
  }));

test("the list holds the disk's name and description", () =>
  serving(async ({ connect }) => {
    const client = await connect();
    await client.greet();
    const replies = await client.option(nbd.NBD_OPT_LIST);
    assertEquals(replies.map((reply) => reply.type), [nbd.NBD_REP_SERVER, nbd.NBD_REP_ACK]);
    assertEquals(replies[0]!.data, join(u32(4), bytesOf("diska disk for tests")));
  }));

test("a client that aborts is acknowledged, whatever data it sends along", () =>
  serving(async ({ connect, server }) => {
    for (const data of [pattern(0), pattern(100), pattern(MIB)]) {
      const client = await connect();
      await client.greet();
      assertEquals((await client.option(nbd.NBD_OPT_ABORT, data))[0]!.type, nbd.NBD_REP_ACK);
      await client.expectEnd();
    }
    const rude = await connect();
    await rude.greet();
    await rude.send(optionBytes(nbd.NBD_OPT_ABORT));
    rude.close();
    await until(() => server.connections === 0, "no connection left");
  }));

test("an old client goes by NBD_OPT_EXPORT_NAME and gets the zeroes it expects", () =>
  serving(async ({ connect }) => {
    for (const flags of [0, 1, 2, 3]) {
      const client = await connect();
      await client.greet(flags);
      await client.send(optionBytes(nbd.NBD_OPT_EXPORT_NAME, bytesOf("disk")));
      const answer = await client.take(flags & 2 ? 10 : 134);
      assertEquals(viewOf(answer).getBigUint64(0), BigInt(4 * MIB));
      assertEquals(viewOf(answer).getUint16(8), FLAGS);
      assertEquals(answer.subarray(10), new Uint8Array(answer.length - 10));
      assertEquals((await client.call({ type: nbd.NBD_CMD_READ, length: 8 })).errno, 0);
    }
  }));

test("clients that break the rules are cut off, are logged once, and nobody else notices", async () => {
  const logger = keepingLogger();
  await serving(async ({ connect, attach, server }) => {
    const neighbour = await attach();
    const breaches: [number, Uint8Array][] = [
      [4, new Uint8Array(0)],
      [0x80000003, new Uint8Array(0)],
      [0, optionBytes(nbd.NBD_OPT_GO, exportRequest(""))],
      [3, bytesOf("GET / HTTP/1.1\r\nHost: x\r\n\r\n")],
      [3, optionBytes(nbd.NBD_OPT_EXPORT_NAME, bytesOf("disc"))],
      [3, optionBytes(nbd.NBD_OPT_EXPORT_NAME, pattern(20_000))],
    ];
    for (const [flags, bytes] of breaches) {
      const before = logger.lines.length;
      const client = await connect();
      await client.greet(flags);
      await client.send(bytes).catch(() => {});
      await client.expectEnd();
      await until(() => server.connections === 1, "only the neighbour left");
      assertEquals(logger.lines.length, before + 1, logger.lines.join("\n"));
      assertEquals((await neighbour.call({ type: nbd.NBD_CMD_READ, length: 8 })).errno, 0);
    }
  }, { logger });
});

test("a client that does not finish its handshake is cut off at the deadline", async () => {
  const clock = new ManualClock();
  const logger = keepingLogger();
  await serving(async ({ connect, server }) => {
    const silent = await connect();
    const slow = await connect();
    await slow.greet();
    await slow.option(nbd.NBD_OPT_LIST);
    await silent.take(18);
    await clock.advance(HANDSHAKE_MS_MAX - 1);
    assertEquals(server.connections, 2);
    await clock.advance(1);
    await silent.expectEnd();
    await slow.expectEnd();
    await until(() => server.connections === 0, "no connection left");
    assertEquals(logger.lines.length, 2);
    assertEquals(clock.pending, 0);
  }, { clock, logger });
});

test("one connection too many is closed at once, and there is room again when one goes", async () => {
  const logger = keepingLogger();
  await serving(async ({ attach, connect, server }) => {
    const clients = [];
    for (let i = 0; i < CONNECTIONS_MAX; i++) clients.push(await attach());
    const surplus = await connect();
    await surplus.expectEnd();
    assertEquals(logger.lines.length, 1);
    assertEquals(server.connections, CONNECTIONS_MAX);
    clients[3]!.close();
    await until(() => server.connections < CONNECTIONS_MAX, "a connection less");
    const next = await attach();
    assertEquals((await next.call({ type: nbd.NBD_CMD_READ, length: 1 })).errno, 0);
  }, { logger });
});

test("a handshake cut or split at any byte harms nobody", () =>
  serving(async ({ connect, server }) => {
    const bytes = join(
      u32(3),
      optionBytes(nbd.NBD_OPT_LIST),
      optionBytes(99, pattern(5)),
      optionBytes(nbd.NBD_OPT_GO, exportRequest("disk", [3])),
    );
    for (let cut = 0; cut <= bytes.length; cut++) {
      const client = await connect();
      await client.send(bytes.subarray(0, cut));
      client.close();
      await until(() => server.connections === 0, `no connection after a cut at ${cut}`);
    }
    const client = await connect();
    for (const byte of bytes) {
      await client.send(Uint8Array.of(byte));
      await settle();
    }
    const expected = 18 + (20 + 24 + 20) + (20 + 36) + (20 + 12 + 20 + 14 + 20);
    const replies = await client.take(expected);
    assertEquals(viewOf(replies).getUint32(expected - 8), nbd.NBD_REP_ACK);
    assert((await client.call({ type: nbd.NBD_CMD_READ, length: 8 })).errno === 0);
  }));
