"""A client that can tell afterwards whether a disk is as it was at one moment.

  crash_writer.py write URI SEED FLUSH_EVERY [PID N]  writes until the drive is gone; as soon as N flushes have been
                                                      answered kills the drive, which is process PID
  crash_writer.py check URI SEED BASE FLUSHED ISSUED  BASE is a file: the disk before `write` began; the disk to be
                                                      looked at may be a file too, instead of a URI

`write` makes one change after the other, each after the answer to the one before: the seed decides kind, place and
length of each, and its bytes say which change it was. So the disk after the first N changes is known for
every N: moment N. Flushes are asked for between changes and not waited for. It prints "flushed N" when a flush, or a
write with FUA, that came after change N was answered, and at the end "made N", the last change that was answered,
and "issued N", the last that was sent.

`check` reads the whole disk. What it finds in a block was there from one change of that block up to the next
one; a moment that lies in such a span for every single block is what the disk may be, and it must not lie before the
last flush that was answered. If all is well BASE becomes what was found.
"""
import os
import random
import signal
import struct
import sys

import nbd

BLOCK = 4096
BLOCKS_MAX = 40  # of one change: more than two stripes of 64 KiB
FLUSHES_MAX = 4  # under way at once
ZEROES = bytes(BLOCK)


def changes(seed, blocks):
    """Yields (kind, first block, count), for ever."""
    chance = random.Random(seed)
    while True:
        kind = chance.choices(["write", "zero", "trim", "fua"], [60, 3, 3, 1])[0]
        count = min(1 + int(chance.expovariate(1 / 6)), BLOCKS_MAX)
        # half of the changes hit a sixteenth of the disk: blocks are changed again while they are dirty
        span = blocks if chance.random() < 0.5 else blocks // 16
        yield kind, chance.randrange(span - count), count


def content(seed, number, block):
    return struct.pack("<QQ", seed << 32 | number, block) * (BLOCK // 16)


def say(text):
    print(text, flush=True)


def make(drive, kind, seed, number, first, count):
    if kind == "zero":
        drive.zero(count * BLOCK, first * BLOCK)
    elif kind == "trim":
        drive.trim(count * BLOCK, first * BLOCK)
    else:
        data = b"".join(content(seed, number, block) for block in range(first, first + count))
        drive.pwrite(data, first * BLOCK, nbd.CMD_FLAG_FUA if kind == "fua" else 0)


def write(uri, seed, flush_every, pid=0, kill_at=0):
    drive = nbd.NBD()
    drive.connect_uri(uri)
    number = made = flushes = 0

    def flushed(number):
        nonlocal flushes
        flushes += 1
        if flushes == kill_at:
            os.kill(pid, signal.SIGKILL)
        say(f"flushed {number}")

    def flush():
        def answered(error, number=number):
            if error.value == 0:
                flushed(number)
            return 1

        while drive.aio_in_flight() >= FLUSHES_MAX:
            drive.poll(-1)
        drive.aio_flush(completion=answered)

    try:
        for kind, first, count in changes(seed, drive.get_size() // BLOCK):
            number += 1
            make(drive, kind, seed, number, first, count)
            made = number
            if kind == "fua":
                flushed(number)
            elif number % flush_every == 0:
                flush()
    except nbd.Error:
        say(f"made {made}")
        say(f"issued {number}")


def read_all(uri):
    if not uri.startswith("nbd"):
        with open(uri, "rb") as file:
            return file.read()
    drive = nbd.NBD()
    drive.connect_uri(uri)
    size = drive.get_size()
    step = 1 << 20
    return b"".join(drive.pread(step, offset) for offset in range(0, size, step))


def histories(seed, blocks, issued):
    """For each block the changes it has seen; 0 is the base."""
    held = [[(0, "base")] for _ in range(blocks)]
    for number, (kind, first, count) in enumerate(changes(seed, blocks), 1):
        if number > issued:
            return held
        for block in range(first, first + count):
            held[block].append((number, kind))


def check(uri, seed, base_file, flushed, issued):
    with open(base_file, "rb") as file:
        base = file.read()
    found = read_all(uri)

    def is_there(number, kind, block):
        there = found[block * BLOCK:(block + 1) * BLOCK]
        if kind == "base":
            return there == base[block * BLOCK:(block + 1) * BLOCK]
        return there == (ZEROES if kind in ("zero", "trim") else content(seed, number, block))

    fitting = [0] * (issued + 2)  # sums of +1 where a span begins and -1 where it ends
    for block, held in enumerate(histories(seed, len(found) // BLOCK, issued)):
        ends = [number for number, _ in held[1:]] + [issued + 1]
        spans = [(held[at][0], end) for at, end in enumerate(ends) if is_there(*held[at], block)]
        if not spans:
            there = found[block * BLOCK:block * BLOCK + 32].hex()
            sys.exit(f"block {block} holds what was never written there: {there}...")
        if spans[-1][1] <= flushed:
            sys.exit(f"block {block} is as it was before change {spans[-1][1]}, and {flushed} was flushed")
        for begin, end in spans:
            fitting[begin] += 1
            fitting[end] -= 1
    blocks = len(found) // BLOCK
    most, moment, fits = 0, None, 0
    for number in range(issued + 1):
        fits += fitting[number]
        most = max(most, fits)
        if fits == blocks:
            moment = number
    if moment is None:
        sys.exit(f"the disk is as it was at no moment: at the best one {most} of {blocks} blocks fit")
    if moment < flushed:
        sys.exit(f"the disk is as it was after change {moment}, but {flushed} had been flushed")
    with open(base_file, "wb") as file:
        file.write(found)
    say(f"as after change {moment} of {issued}, flushed {flushed}")


if sys.argv[1] == "write":
    write(sys.argv[2], *map(int, sys.argv[3:]))
else:
    check(sys.argv[2], int(sys.argv[3]), sys.argv[4], int(sys.argv[5]), int(sys.argv[6]))
