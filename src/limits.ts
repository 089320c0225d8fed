/**
 * Every bound of the program, with its unit and its reason. A bound that a user may move is a key of
 * config.ini and has its default here.
 */

export const KIB = 1024;
export const MIB = 1024 * KIB;
export const GIB = 1024 * MIB;
export const TIB = 1024 * GIB;

// ---- the disk

/** The unit of dirty and of valid: a page of memory, and the block of ext4 and xfs. */
export const BLOCK_BYTES = 4096;
/** A stripe is a power of two between these. */
export const STRIPE_BYTES_MIN = BLOCK_BYTES;
export const STRIPE_BYTES_MAX = 4 * MIB;
export const STRIPE_BYTES_DEFAULT = 64 * KIB;
/** Stripes of up to so many bytes are always fetched whole: a GET of 64 KiB takes hardly longer than one of 4 KiB. */
export const STRIPE_UNPARTED_BYTES_MAX = 64 * KIB;
/** Of larger ones in new volumes a reader here and there gets so much: 16 bytes of prefix each are 0.1 % of it. */
export const PART_BYTES = 16 * KIB;
/** 8 EiB is what NBD could say; 1 PiB keeps every byte offset exact in a double with room to spare. */
export const VOLUME_BYTES_MAX = 1024 * TIB;
/** The volume of a program started without any configuration. */
export const VOLUME_BYTES_DEFAULT = GIB;

// ---- NBD

/** Largest payload of one request: what clients assume when nothing is advertised (proto.md, "Block sizes"). */
export const REQUEST_BYTES_MAX = 32 * MIB;
/** Connections at once that are past their handshake; the kernel opens one, nbdcopy and fio four or eight. */
export const CONNECTIONS_MAX = 16;
/** Connections at once in the handshake; past it the oldest gives way. A handshake is over in milliseconds. */
export const HANDSHAKES_MAX = 16;
/**
 * A connection that has been stalled, or at its end, for so long gives its place to a new one: the kernel may have
 * left it. While S3 is away the kernel attaches anew every `timeout` seconds, mostly 30.
 */
export const STUCK_MS_MIN = 30_000;
/**
 * A client that sends nothing for so long of a payload for which memory is kept (one too large for the receive buffer) is
 * cut off: two such payloads are all the room there is.
 */
export const PAYLOAD_SILENCE_MS_MAX = 30_000;
/** More than Linux keeps of one connection unread at both ends (tcp_rmem and tcp_wmem: 6 + 4 MiB). */
export const SOCKET_BYTES_MAX = 16 * MIB;
/** A client that has not finished its handshake by then is cut off. */
export const HANDSHAKE_MS_MAX = 30_000;
/**
 * Options of one handshake; clients send five or so. What is answered to so many fits a socket's buffer (208 KiB), so
 * that a client that reads no answer never stops a write: Deno can't end one that has begun.
 */
export const OPTIONS_MAX = 64;
/** Names and messages (proto.md, "Values": strings), so a longer option is refused unread. */
export const OPTION_BYTES_MAX = 16 * KIB;
/** Payloads and replies that all connections together hold in memory; past it they stop reading. */
export const IN_FLIGHT_BYTES_MAX = 64 * MIB;
/** What a connection may have in flight even then. */
export const SMALL_REQUEST_BYTES = MIB;
/** Requests of one connection that wait for the bucket; the kernel sends 128 at most. All together: 16 times that. */
export const IN_FLIGHT_REQUESTS_MAX = 1024;
/**
 * What one read of a socket may bring: a request of 256 KiB and most of the next, or thousands of small ones. More
 * was slower: it no longer fits the second-level cache (1 MiB) together with what the requests touch.
 */
export const RECEIVE_BUFFER_BYTES = 448 * KIB;
/**
 * A payload of so much is received into places of the device, where it offers any. With less it costs more than the copy
 * that it saves: the buffer takes all that a Unix socket holds (208 KiB) by one system call, and wakes the client
 * once, instead of once for each payload.
 */
export const PLACED_BYTES_MIN = 256 * KIB;
/**
 * What is read at once with the rest of such a payload, and at first behind one: the next request's header. What comes
 * with it is copied.
 */
export const PLACED_TAIL_BYTES = 4 * KIB;
/** Places that one system call fills, or sends from; what is beyond them is not done at once. */
export const PLACES_MAX = 64;
/** Replies of one turn are joined in a buffer of this size: two of 256 KiB. A connection has two such buffers. */
export const REPLY_BUFFER_BYTES = 544 * KIB;
/** Extents in one block status reply, 8 bytes each: more are asked for again from where these end. */
export const EXTENTS_MAX = 8192;
/** A read that is not answered at once travels in chunks of so much: what one GET brings at most. */
export const READ_CHUNK_BYTES_MAX = 2 * MIB;
/** What we say to people, names and reasons; nbd-client does not read an option reply of 4,096 bytes. */
export const TEXT_BYTES_MAX = 1024;
/** TLS bytes that are read, and bytes that are encrypted, at a time. */
export const TLS_READ_BYTES = 128 * KIB;
export const TLS_WRITE_BYTES = 256 * KIB;
/**
 * How often OpenSSL may come back from a client's records without data, and once more for each MiB of data; from a key
 * update it comes back twice. Each costs some 20 us of the one thread and an answer, which nobody has to take; clients
 * send one after gigabytes, if at all.
 */
export const TLS_BARE_READS_MAX = 64;
/** Both once more in OpenSSL, whose buffers are up to a third larger than what is in them, and 64 KiB for its session. */
export const TLS_BYTES_MAX = Math.ceil((TLS_READ_BYTES + TLS_WRITE_BYTES) * 7 / 3) + 64 * KIB;
/** How long the socket of a quick client is asked for its next request before the server goes to sleep. */
export const BUSY_POLL_MS = 0.1;
/** How long it may go on so, request after request, before everybody else has a turn. */
export const BUSY_MS_MAX = 1;
/** How long the next of large payloads is waited for within a turn: what the client takes to be woken and to send. */
export const BULK_POLL_MS = 0.05;
/** They are waited for only when so long nothing else was asked for. */
export const BULK_ALONE_MS = 20;
/** Replies of one connection that are sent within a turn: what is more is written, so that others have their turn. */
export const TURN_REPLY_BYTES_MAX = 2 * MIB;
/** What a Unix socket may hold that is sent and not yet taken, so that a reply of 256 KiB leaves in one go: by itself it has 208 KiB. */
export const SOCKET_SEND_BYTES = 512 * KIB;
/** A client that takes no reply for so long, once its connection is to be closed, is cut off. */
export const DRAIN_MS_MAX = 10_000;
/** After its last reply a client has this long to close its own side; see `Transmission`. */
export const LINGER_MS_MAX = 1_000;

// ---- attaching to the kernel

/** The server answers a handshake at once, unless it is still opening the volume. */
export const ATTACH_ANSWER_S = 30;
/**
 * How long a request waits for a server that is gone before it fails: a year, which is for ever. A file system whose
 * write fails is worse off than one that waits; `detach --force` ends the waiting.
 */
export const ATTACH_DEAD_CONNECTION_S = 365 * 86_400;
/**
 * How often the kernel looks at a request that has no answer, in place of its 30 s: what was under way when the
 * server died is sent to the next one so much later at most. Each look is a line of the kernel's log a request.
 */
export const ATTACH_LOOK_MS = 10_000;
/** A dead connection is known as dead within milliseconds; three offers of another one make sure. */
export const ATTACH_OFFERS = 3;
export const ATTACH_OFFER_MS = 300;

// ---- the volume

/**
 * Data in one segment. With its 72-byte header, 28 bytes of index and 16 of prefix a record, 128 stripes of
 * 64 KiB make an object of 8,394,312 bytes: 0.07 % more than the data, and exactly 128 PUTs a GiB.
 */
export const SEGMENT_DATA_BYTES_MAX = 8 * MIB;
/** Header and index of any segment: one GET of this many bytes at opening. */
export const SEGMENT_HEAD_BYTES_MAX = 64 * KIB;
/** (65536 - 72) / 28, rounded down; 8 MiB in single blocks are 2,048. */
export const SEGMENT_RECORDS_MAX = 2338;
/** Segments whose headers are read before the first of them is applied, at opening: up to 16 MiB of them. */
export const REPLAY_SEGMENTS = 256;
/** Segments numbered but not known stored: how far a leftover can lie behind a gap in the log. */
export const SEGMENTS_UNSTORED_MAX = 64;
/** Ten digits; at 100 segments a second, three years. */
export const SEQ_MAX = 9_999_999_999;
/** A write of up to so many bytes lands in one batch; a longer one may be parted by a crash. */
export const WRITE_PIECE_BYTES_MAX = 8 * MIB;
/**
 * Share of the cache that may be dirty or sealed; the rest stays for reading. Of 64 MiB it is six segments: four
 * on their way, one that waits ready or for what is stored out of order, and one that is written.
 */
export const DIRTY_SHARE = 3 / 4;
/** Share of the cache in which data of writes may lie while it arrives: 8 MiB of 64 MiB. What comes beside it is copied. */
export const SPARE_SHARE = 1 / 8;
/**
 * What a journal may take, by the size of the cache: what is dirty or sealed, and half of the cache for what is
 * rewritten before it is sealed, what waits for room, and a file that is stored but in part.
 */
export const JOURNAL_SHARE = DIRTY_SHARE + 1 / 2;
/**
 * Share of the cache that may be dirty before it is sealed unasked, at least a segment and in whole segments: 8 MiB
 * of a cache of 64 MiB, 128 MiB of one GiB. More would make a flush that comes at last wait longer. What is rewritten
 * all the time may be more: half of what may be dirty.
 */
export const SEAL_SHARE = 1 / 8;
/** Stripes with dirty blocks, or runs of zeroes, that are sealed unasked, however large the cache: sealed in one turn. */
export const SEAL_STRIPES_MAX = 4096;
/**
 * What is done in pieces (a buffer of small requests, a large read or write, filling segments, a commit, settling the
 * map) gives way to all else after so long. Giving way takes 2 ms, a timer's; nobody is to wait for 20.
 */
export const TURN_MS_MAX = 4;
/** Zero runs not yet in the map; past it a trim waits for an upload. */
export const ZERO_RUNS_MAX = 65_536;
/** Patches of one stripe, then its next write brings it into the cache to be stored whole. */
export const STRIPE_PATCHES_MAX = 8;
/** Patches of the whole volume, about 100 bytes each; past it every partial write stores a whole stripe. */
export const PATCHES_MAX = 256 * 1024;
/** Stripes of a page of the map: 48 KiB of memory, 256 MiB of a volume with 64 KiB stripes. */
export const MAP_PAGE_STRIPES = 4096;
/** Stripes of a page that are counted together, for a picture of the volume: 1 MiB with 64 KiB stripes. */
export const MAP_GROUP_STRIPES = 16;
/** Cells of that picture. */
export const VOLUME_MAP_CELLS_MAX = 1024;
/** Steps of one look at what is stored, a stripe or a block each: a few milliseconds of the one thread. */
export const EXTENT_STEPS_MAX = 65_536;
/** GETs under way at once. */
export const DOWNLOADS_MAX = 32;
/** Bytes of one GET that fetches neighbouring records: 2 MiB of data and their prefixes; 32 of them at once are 64 MiB. */
export const GET_BYTES_MAX = 2 * MIB + 8 * KIB;
/** What is fetched at a time because a client says that it will read it: half of those GETs, others have the other half. */
export const PREFETCH_BYTES_MAX = DOWNLOADS_MAX / 2 * READ_CHUNK_BYTES_MAX;
/** A gap between two records that is cheaper to read than a second GET: 30 ms are 1 MiB at 35 MB/s, and more costs memory. */
export const GET_GAP_BYTES_MAX = 128 * KIB;
/** Streams of sequential reads that are told apart. */
export const READ_STREAMS_MAX = 8;
/** What is fetched first ahead of a stream; then twice as much each time it has used half of it, or a GET's worth. */
export const READ_AHEAD_BYTES_FIRST = 256 * KIB;
export const READ_AHEAD_BYTES_STEP = 2 * MIB;
/** Stripes read in order that make a stream, and how many it takes when much was read ahead in vain. */
export const READ_AHEAD_STRIPES_MIN = 2;
export const READ_AHEAD_STRIPES_MAX = 16;
/** A checkpoint is due after so many segments, or so long with changes. */
export const CHECKPOINT_SEGMENTS = 1000;
export const CHECKPOINT_MS = 15 * 60_000;
/** Segments without a checkpoint that a stop leaves when nothing was written: a header read each at opening. */
export const IDLE_SEGMENTS_MAX = 32;
/** One object of a checkpoint's pages. */
export const CHECKPOINT_PACK_BYTES_MAX = 8 * MIB;
/** What a checkpoint does in one turn, some 2 ms: looks at a page or a segment. */
export const CHECKPOINT_TURN_LOOKS = 4096;
/** Encoding a page takes as long as so many looks. */
export const CHECKPOINT_PAGE_LOOKS = CHECKPOINT_TURN_LOOKS / 8;
/** Garbage below this is left: with four segments of 8 MiB nobody's bill changes. */
export const RECLAIM_BYTES_MIN = 32 * MIB;
/** Reclaim begins when garbage is half as much as what is live, and ends when it is a third. */
export const RECLAIM_BEGIN_SHARE = 1 / 2;
export const RECLAIM_END_SHARE = 1 / 3;
/** A segment of which more is live is never moved. */
export const RECLAIM_LIVE_SHARE_MAX = 0.9;
/** While clients are active, reclaim rests nine times as long as it worked: a tenth of the time. */
export const RECLAIM_REST_FACTOR = 9;
/** Segments looked at in one turn, to find those: under a millisecond. */
export const RANK_TURN_SEGMENTS = 32_768;
/** Live bytes moved in one round: what fills a new segment. */
export const RECLAIM_ROUND_BYTES = SEGMENT_DATA_BYTES_MAX;
/** Segments emptied in one round, and of how many at a time the header is read. */
export const RECLAIM_ROUND_SEGMENTS_MAX = 512;
export const RECLAIM_HEADS_MAX = 16;
/**
 * Segments of any size that a volume may have beside four for every 8 MiB that are live; past it the smallest are
 * put together. Each takes about 100 bytes of memory and 16 of every checkpoint.
 */
export const SEGMENTS_SMALL_MAX = 10_000;
/** The lease is renewed this often, and counts as given up after three times that and a half. */
export const LEASE_RENEW_MS = 20_000;
export const LEASE_EXPIRED_MS = 70_000;
/** Who takes a holder for dead by its own clock watches so long whether the lease is renewed: clocks differ. */
export const LEASE_WATCH_MS = 25_000;

// ---- bucket

/** Keys of one page of a list, and of one delete: what S3 allows (API reference, ListObjectsV2, DeleteObjects). */
export const KEYS_MAX = 1000;
/**
 * A try of any request may take this long, besides its bytes: S3 answers in well under a second, and a
 * store that recovers or splits a shard in some ten.
 */
export const TRY_MS_BASE = 30_000;
/**
 * Slowest transfer that is still taken for progress. With it an 8 MiB segment has 30 + 64 s. A time-out on a line
 * that serves others doubles the time of the next try, so that eight uploads sharing 1 Mbit/s come through too.
 */
export const TRY_BYTES_PER_SECOND = 128 * KIB;
/** A time-out doubles the next try's time up to this factor: 8 MiB at 16 KiB/s. */
export const TRY_FACTOR_MAX = 8;
/** What a GET without a range is given time for: the largest object there is, a segment. */
export const TRY_BYTES_UNKNOWN = 8 * MIB;
/** Wait before try n is random between 0 and BASE * 2^n, at most MAX (AWS's "exponential backoff and full jitter"). */
export const BACKOFF_MS_BASE = 100;
export const BACKOFF_MS_MAX = 10_000;
/** While starting, a bucket that can't be reached is tried this long, and a request without an answer is given up then. */
export const STARTUP_PATIENCE_MS = 10_000;
/** A request that still fails this long after it was made is worth a log line; one 503 in passing is not. */
export const OUTAGE_MS_MIN = 1_000;
/** A try without an answer for so long, besides its bytes, is worth one too, if nothing else was answered either. */
export const OUTAGE_SILENCE_MS = 10_000;
/** While an outage lasts, a line this often. */
export const OUTAGE_REPORT_MS = 30_000;
/** Connections kept for the next request: what uploads, fetches and checkpoint pages together use. */
export const S3_IDLE_SOCKETS_MAX = 64;
/** A connection that has rested for so long is not used again: what lies between may have forgotten it, and would say nothing. */
export const S3_IDLE_MS_MAX = 15_000;
/** Status line and headers of an answer; S3's are under 1 KiB. What is read from a connection before its body has a buffer of this size. */
export const HTTP_HEAD_BYTES_MAX = 16 * KIB;
/** What one write of a request's body is given: with 256 KiB a GiB took 0.07 s more of processor time. */
export const HTTP_WRITE_BYTES = MIB;
/** What is hashed in another thread: less takes a third of a millisecond, and the way there and back a tenth. */
export const SHA256_ASIDE_BYTES = 512 * KIB;
/** What one PUT can have stored. Memory is taken as it arrives. */
export const HTTP_BODY_BYTES_MAX = 5 * GIB;
/** A body whose length is not announced, or of an error: some XML. */
export const HTTP_BODY_BYTES_UNKNOWN_MAX = MIB;
/** Connections left in a write that does not end. */
export const HTTP_STUCK_MAX = 16;
/** A temporary file of a directory bucket older than this belongs to a process that died. */
export const STALE_TEMP_MS = 3_600_000;

// ---- status

/** A drive whose bucket has been away for longer is not healthy: a shorter absence is everyday life of S3. */
export const HEALTHY_AWAY_MS_MAX = 60_000;
/** HTTP connections at once: a browser opens six, Prometheus one. */
export const STATUS_CONNECTIONS_MAX = 16;
/** A request of a browser is under 1 KiB. */
export const STATUS_HEAD_BYTES_MAX = 8 * KIB;
/** The largest answer is the page. */
export const STATUS_ANSWER_BYTES_MAX = 256 * KIB;
/** A connection has so long to ask, and to close its side when it has been answered. */
export const STATUS_REQUEST_MS_MAX = 5_000;

// ---- memory

/** Of a connection: what it reads into, two buffers of replies, one filling while the other is sent, and TLS. */
export const CONNECTION_BYTES_MAX = RECEIVE_BUFFER_BYTES + 2 * REPLY_BUFFER_BYTES + TLS_BYTES_MAX;
/** Deno with this program loaded, and what it has collected but not yet given back. */
export const RUNTIME_BYTES = 256 * MIB;

// ---- people

/** Long work says so often how far it is, where that is not a terminal. */
export const PROGRESS_LINE_MS = 5_000;
/** An opening that takes no longer says nothing. */
export const OPENING_QUIET_MS = 2_000;

/** A drive that does not answer what it is asked for so long is as good as away. */
export const STATUS_ANSWER_MS_MAX = 5_000;
/** A watch asks so often; where it prints block after block, so often. */
export const WATCH_EVERY_MS = 2_000;
export const WATCH_LINES_EVERY_MS = 10_000;

// ---- the log

/** Lines of one kind within a minute before the rest is counted: five outages begin and end at once in the log. */
export const LOG_FIRST_LINES = 10;
/** What was counted is said this often. */
export const LOG_WINDOW_MS = 60_000;
/** Things that a kind's lines were about and that are not said again; a bad place that is read on and on is one. */
export const LOG_KNOWN_MAX = 64;
/** A stack trace fits; what a server or a client sends may be of any length. */
export const LOG_LINE_CHARS_MAX = 4096;
/** Shorter ones would be found in every other word. */
export const SECRET_CHARS_MIN = 8;
/** Of an access key's id, which tell it from others. */
export const KEY_ID_SHOWN_CHARS = 4;
/** Keys that were rotated are forgotten in time: each takes a look at every line. Three a key, each in up to three forms. */
export const SECRETS_KEPT_MAX = 36;

// ---- systemd

/** What the service does is told this often, if it has changed; a drain that goes on as often. */
export const STATUS_EVERY_MS = 5_000;
/** An opening that goes on has so long until it must say so again. */
export const START_EXTENSION_MS = 60_000;
/**
 * A stop goes on for so long without the bucket, then what is not stored is given up: as TimeoutStopSec= in
 * systemd/elasticdrive@.service. An outage of ten minutes is survived, with room to spare.
 */
export const STOP_PATIENCE_MS = 15 * 60_000;
