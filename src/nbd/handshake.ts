/**
 * The handshake: fixed newstyle negotiation of proto.md, from the greeting to the option that begins
 * transmission.
 *
 * Promises: every option gets the reply that proto.md asks for, and negotiation goes on after an error;
 * a client that breaks a rule after which that is impossible is a `ProtocolError`. Data of an option is
 * never held beyond OPTION_BYTES_MAX.
 * Assumes: the caller bounds the time (HANDSHAKE_MS_MAX) by closing the connection. A client that sends on
 * without reading replies stops itself: the next option is read after the reply to this one is sent.
 */

import { OPTION_BYTES_MAX, REQUEST_BYTES_MAX } from "../limits.ts";
import {
  CLIENT_FLAGS_BYTES,
  encodeExport,
  encodeGreeting,
  encodeInfoBlockSize,
  encodeInfoExport,
  encodeInfoText,
  encodeMetaContext,
  encodeOptionReply,
  encodeServer,
  encodeText,
  OPTION_HEADER_BYTES,
  type OptionHeader,
  parseExportRequest,
  parseMetaContextRequest,
  parseOptionHeader,
  parseText,
  ProtocolError,
} from "./codec.ts";
import { type Session, transmissionFlags } from "./commands.ts";
import {
  BASE_ALLOCATION,
  BASE_ALLOCATION_ID,
  NBD_FLAG_C_FIXED_NEWSTYLE,
  NBD_FLAG_C_NO_ZEROES,
  NBD_INFO_BLOCK_SIZE,
  NBD_INFO_DESCRIPTION,
  NBD_INFO_NAME,
  NBD_OPT_ABORT,
  NBD_OPT_EXPORT_NAME,
  NBD_OPT_GO,
  NBD_OPT_INFO,
  NBD_OPT_LIST,
  NBD_OPT_LIST_META_CONTEXT,
  NBD_OPT_SET_META_CONTEXT,
  NBD_OPT_STRUCTURED_REPLY,
  NBD_REP_ACK,
  NBD_REP_ERR_INVALID,
  NBD_REP_ERR_TOO_BIG,
  NBD_REP_ERR_UNKNOWN,
  NBD_REP_ERR_UNSUP,
  NBD_REP_INFO,
  NBD_REP_META_CONTEXT,
  NBD_REP_SERVER,
} from "./constants.ts";
import { type ReceiveBuffer, writeAll } from "./socket.ts";

/** The one disk that is offered, under its name and under "", the name of the default export. */
export interface Export {
  name: string;
  description: string;
  sizeBytes: number;
  preferredBytes: number;
  readOnly: boolean;
}

/** What an option leads to. */
type Next = "haggle" | "transmission" | "end";

/**
 * Negotiates on a new connection. Transmission begins with the session that is returned, and with whatever
 * `received` holds already. Undefined: the client has ended the session or gone away.
 * Throws `ProtocolError`, or what the socket throws.
 */
export async function negotiate(
  conn: Deno.Conn,
  received: ReceiveBuffer,
  offered: Export,
): Promise<Session | undefined> {
  await writeAll(conn, encodeGreeting());
  if (!(await received.require(conn, CLIENT_FLAGS_BYTES))) return undefined;
  const handshake = new Handshake(conn, received, offered, takeClientFlags(received));
  for (;;) {
    const next = await handshake.haggle();
    if (next !== "haggle") return next === "transmission" ? handshake.session : undefined;
  }
}

function takeClientFlags(received: ReceiveBuffer): number {
  const flags = received.view.getUint32(received.start);
  received.start += CLIENT_FLAGS_BYTES;
  if ((flags & ~(NBD_FLAG_C_FIXED_NEWSTYLE | NBD_FLAG_C_NO_ZEROES)) !== 0) {
    throw new ProtocolError(`client flags must be 0 to 3, not 0x${flags.toString(16)}`);
  }
  return flags;
}

class Handshake {
  readonly #conn: Deno.Conn;
  readonly #received: ReceiveBuffer;
  readonly #offered: Export;
  readonly #clientFlags: number;
  /** What holds if transmission begins now. */
  readonly session: Session;
  /** The export for which base:allocation was selected, as the client named it. */
  #contextOf: string | undefined = undefined;

  constructor(conn: Deno.Conn, received: ReceiveBuffer, offered: Export, clientFlags: number) {
    this.#conn = conn;
    this.#received = received;
    this.#offered = offered;
    this.#clientFlags = clientFlags;
    this.session = { readOnly: offered.readOnly, structuredReplies: false, blockStatus: false };
  }

  /** The life of one option: receive, answer. */
  async haggle(): Promise<Next> {
    if (!(await this.#received.require(this.#conn, OPTION_HEADER_BYTES))) return "end";
    const header = parseOptionHeader(this.#received.unread())!;
    this.#received.start += OPTION_HEADER_BYTES;

    const fixed = (this.#clientFlags & NBD_FLAG_C_FIXED_NEWSTYLE) !== 0;
    if (!fixed && header.option !== NBD_OPT_EXPORT_NAME) {
      throw new ProtocolError(
        "a client that is not fixed newstyle may send NBD_OPT_EXPORT_NAME only",
      );
    }
    if (header.length > OPTION_BYTES_MAX) return await this.#refuseUnread(header);

    if (!(await this.#received.require(this.#conn, header.length))) return "end";
    const data = this.#received.unread().slice(0, header.length);
    this.#received.start += header.length;
    return await this.#answer(header.option, data);
  }

  async #answer(option: number, data: Uint8Array): Promise<Next> {
    switch (option) {
      case NBD_OPT_EXPORT_NAME:
        return await this.#exportName(data);
      case NBD_OPT_ABORT:
        return await this.#abort();
      case NBD_OPT_LIST:
        return await this.#list(data);
      case NBD_OPT_INFO:
      case NBD_OPT_GO:
        return await this.#infoOrGo(option, data);
      case NBD_OPT_STRUCTURED_REPLY:
        return await this.#structuredReply(data);
      case NBD_OPT_LIST_META_CONTEXT:
      case NBD_OPT_SET_META_CONTEXT:
        return await this.#metaContext(option, data);
      default:
        return await this.#refuse(
          option,
          NBD_REP_ERR_UNSUP,
          "this server does not know the option",
        );
    }
  }

  async #exportName(data: Uint8Array): Promise<Next> {
    const name = parseText(data);
    if (!this.#isOffered(name)) {
      throw new ProtocolError(`NBD_OPT_EXPORT_NAME: ${this.#offeredNames()}`);
    }
    const noZeroes = (this.#clientFlags & NBD_FLAG_C_NO_ZEROES) !== 0;
    const flags = transmissionFlags(this.session);
    await writeAll(this.#conn, encodeExport(this.#offered.sizeBytes, flags, noZeroes));
    return this.#begin(name);
  }

  /** Data is ignored; the client may be gone already, which is what it asked for. */
  async #abort(): Promise<Next> {
    await writeAll(this.#conn, encodeOptionReply(NBD_OPT_ABORT, NBD_REP_ACK)).catch(() => {});
    return "end";
  }

  async #list(data: Uint8Array): Promise<Next> {
    if (data.length > 0) return await this.#refuseData(NBD_OPT_LIST);
    const server = encodeServer(this.#offered.name, this.#offered.description);
    await this.#reply(NBD_OPT_LIST, NBD_REP_SERVER, server);
    await this.#reply(NBD_OPT_LIST, NBD_REP_ACK);
    return "haggle";
  }

  async #infoOrGo(option: number, data: Uint8Array): Promise<Next> {
    const wanted = parseExportRequest(data);
    if (wanted === undefined) {
      return await this.#refuse(
        option,
        NBD_REP_ERR_INVALID,
        "the lengths in the option don't add up",
      );
    }
    if (!this.#isOffered(wanted.name)) {
      return await this.#refuse(option, NBD_REP_ERR_UNKNOWN, this.#offeredNames());
    }
    for (const info of this.#infos(wanted.infos)) await this.#reply(option, NBD_REP_INFO, info);
    await this.#reply(option, NBD_REP_ACK);
    return option === NBD_OPT_GO ? this.#begin(wanted.name) : "haggle";
  }

  /** A metadata context holds for the export it was selected for and for no other. */
  #begin(exportName: string): Next {
    this.session.blockStatus = this.#contextOf === exportName;
    return "transmission";
  }

  /** A second time changes nothing and is no mistake. */
  async #structuredReply(data: Uint8Array): Promise<Next> {
    if (data.length > 0) return await this.#refuseData(NBD_OPT_STRUCTURED_REPLY);
    this.session.structuredReplies = true;
    await this.#reply(NBD_OPT_STRUCTURED_REPLY, NBD_REP_ACK);
    return "haggle";
  }

  /** "Metadata querying": which contexts there are, or which to use; there is one, base:allocation. */
  async #metaContext(option: number, data: Uint8Array): Promise<Next> {
    const isSelection = option === NBD_OPT_SET_META_CONTEXT;
    if (isSelection) this.#contextOf = undefined;
    const wanted = parseMetaContextRequest(data);
    const mistake = !this.session.structuredReplies
      ? "structured replies have to be negotiated first"
      : wanted === undefined
      ? "the lengths in the option don't add up"
      : wanted.queries.some((query) => query.indexOf(":") < 1)
      ? "a query consists of a namespace, a colon and a name"
      : undefined;
    if (wanted === undefined || mistake !== undefined) {
      return await this.#refuse(option, NBD_REP_ERR_INVALID, mistake!);
    }
    const { exportName, queries } = wanted;
    if (!this.#isOffered(exportName)) {
      return await this.#refuse(option, NBD_REP_ERR_UNKNOWN, this.#offeredNames());
    }
    const found = queries.includes(BASE_ALLOCATION) ||
      (!isSelection && (queries.length === 0 || queries.includes("base:")));
    if (found) {
      if (isSelection) this.#contextOf = exportName;
      const context = encodeMetaContext(isSelection ? BASE_ALLOCATION_ID : 0, BASE_ALLOCATION);
      await this.#reply(option, NBD_REP_META_CONTEXT, context);
    }
    await this.#reply(option, NBD_REP_ACK);
    return "haggle";
  }

  /** NBD_INFO_EXPORT always; the others when asked for; those not known are ignored. */
  #infos(asked: number[]): Uint8Array[] {
    const { name, description, sizeBytes, preferredBytes } = this.#offered;
    const infos: Uint8Array[] = [encodeInfoExport(sizeBytes, transmissionFlags(this.session))];
    if (asked.includes(NBD_INFO_NAME)) infos.push(encodeInfoText(NBD_INFO_NAME, name));
    if (asked.includes(NBD_INFO_DESCRIPTION)) {
      infos.push(encodeInfoText(NBD_INFO_DESCRIPTION, description));
    }
    if (asked.includes(NBD_INFO_BLOCK_SIZE)) {
      infos.push(encodeInfoBlockSize(1, preferredBytes, REQUEST_BYTES_MAX));
    }
    return infos;
  }

  #isOffered(name: string): boolean {
    return name === "" || name === this.#offered.name;
  }

  #offeredNames(): string {
    const { name } = this.#offered;
    return `no such export: this server offers ""${name === "" ? "" : ` and "${name}"`}`;
  }

  /** More data than any option of this server has use for: dropped as it comes, then refused. */
  async #refuseUnread(header: OptionHeader): Promise<Next> {
    if (header.option === NBD_OPT_EXPORT_NAME) {
      throw new ProtocolError(`NBD_OPT_EXPORT_NAME: a name of ${header.length} bytes`);
    }
    if (!(await this.#received.skip(this.#conn, header.length))) return "end";
    if (header.option === NBD_OPT_ABORT) return await this.#abort();
    const text = `option data may have ${OPTION_BYTES_MAX} bytes at most`;
    return await this.#refuse(header.option, NBD_REP_ERR_TOO_BIG, text);
  }

  async #refuseData(option: number): Promise<Next> {
    return await this.#refuse(option, NBD_REP_ERR_INVALID, "the option takes no data");
  }

  async #refuse(option: number, type: number, text: string): Promise<Next> {
    await this.#reply(option, type, encodeText(text));
    return "haggle";
  }

  async #reply(option: number, type: number, data?: Uint8Array): Promise<void> {
    await writeAll(this.#conn, encodeOptionReply(option, type, data));
  }
}
