"""Random changes of a disk, held against a copy in a file: shadow_client.py URI SHADOW SEED CHANGES

SHADOW is what the disk has to hold; it is changed as the disk is. Every few changes, and at the end, after a flush, what
block status says is held against it: a hole reads as zeroes, so nothing that was written is ever called a hole; after a
flush a stripe of nothing but zeroes is one. Then every byte is read. Prints the bytes that are holes at the end.
"""
import random
import sys

import nbd

BLOCK = 4096
STRIPE = 65536
LENGTHS = [1, 511, 512, 4095, 4096, 4097, 12288, STRIPE - 1, STRIPE, 5 * STRIPE, 700001]

uri, path, seed, changes = sys.argv[1:]
chance = random.Random(int(seed))
shadow = bytearray(open(path, "rb").read())
size = len(shadow)


def connect(structured):
    drive = nbd.NBD()
    drive.set_request_structured_replies(structured)
    if structured:
        drive.add_meta_context(nbd.CONTEXT_BASE_ALLOCATION)
    drive.connect_uri(uri)
    assert drive.get_size() == size, drive.get_size()
    return drive


looker = connect(True)
drives = [looker, connect(False)]


def range_of_disk():
    length = chance.choice(LENGTHS)
    offset = chance.choice([
        0,
        size - length,
        chance.randrange(size - length + 1),
        chance.randrange((size - length) // BLOCK) * BLOCK,
        chance.randrange((size - length) // STRIPE) * STRIPE,
    ])
    return offset, length


def change():
    drive = chance.choice(drives)
    offset, length = range_of_disk()
    fua = nbd.CMD_FLAG_FUA if chance.random() < 0.05 else 0
    verb = chance.choice(["write"] * 4 + ["trim"] * 3 + ["zero"] * 3 + ["write zeroes", "flush", "cache"])
    if verb == "write":
        data = chance.randbytes(length)
        drive.pwrite(data, offset, flags=fua)
        shadow[offset:offset + length] = data
    elif verb == "write zeroes":
        drive.pwrite(bytes(length), offset, flags=fua)
        shadow[offset:offset + length] = bytes(length)
    elif verb == "zero":
        drive.zero(length, offset, flags=fua | chance.choice([0, nbd.CMD_FLAG_NO_HOLE]))
        shadow[offset:offset + length] = bytes(length)
    elif verb == "trim":
        drive.trim(length, offset, flags=fua)
        first, end = -(-offset // BLOCK) * BLOCK, (offset + length) // BLOCK * BLOCK
        if first < end:
            shadow[first:end] = bytes(end - first)
    elif verb == "cache":
        drive.cache(length, offset)
    else:
        drive.flush()


def extents(offset, length, flags=0):
    """(offset, length, flags) of each extent of the range, none of them beyond it."""
    found = []

    def take(context, at, entries, error):
        assert context == nbd.CONTEXT_BASE_ALLOCATION and at == offset, (context, at)
        for length, state in zip(entries[::2], entries[1::2]):
            found.append((at, length, state))
            at += length

    looker.block_status(length, offset, take, flags=flags)
    assert found and sum(length for _, length, _ in found) <= length, (offset, length, found)
    return found


def check_extents(offset, length, flags=0):
    """All of the range, asked for as often as it takes."""
    end = offset + length
    holes = 0
    while offset < end:
        for at, length, state in extents(offset, end - offset, flags):
            assert state in (0, nbd.STATE_HOLE | nbd.STATE_ZERO), state
            if state != 0:
                assert shadow.count(0, at, at + length) == length, f"{length} bytes at {at} are data, and called a hole"
                holes += length
            offset = at + length
    return holes


def check_all():
    looker.flush()
    holes = check_extents(0, size)
    for at in range(0, size, STRIPE):
        if shadow.count(0, at, at + STRIPE) == STRIPE:
            assert len(extents(at, STRIPE)) == 1 and extents(at, STRIPE)[0][2] != 0, f"the stripe at {at} is no hole"
    for at in range(0, size, 1 << 20):
        assert drives[at // STRIPE % 2].pread(1 << 20, at) == shadow[at:at + (1 << 20)], at
    return holes


check_all()
for number in range(int(changes)):
    change()
    if number % 4 == 0:
        offset, length = range_of_disk()
        check_extents(offset, length, chance.choice([0, nbd.CMD_FLAG_REQ_ONE]))
        assert chance.choice(drives).pread(length, offset) == shadow[offset:offset + length], (offset, length)
holes = check_all()
assert 0 < holes < size, holes
open(path, "wb").write(shadow)
print(holes)
