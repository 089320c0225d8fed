"""Overlapping changes in flight together: overlapping_writes.py URI SHADOW

Each of four connections has a quarter of the disk and 96 changes in flight in it, most of them over one another. SHADOW is
what the disk holds; it is changed in the order in which the changes are sent. Then every byte is read, by other
connections than wrote it.
"""
import random
import sys

import nbd

IN_FLIGHT = 96
CHANGES = 700
LENGTHS = [1, 511, 4095, 4096, 8192, 65536, 200000]

uri, path = sys.argv[1:]
chance = random.Random(2711)
shadow = bytearray(open(path, "rb").read())
quarter = len(shadow) // 4
drives = [nbd.NBD() for _ in range(4)]
for drive in drives:
    drive.connect_uri(uri)


def send(drive, begin):
    """Half of them around one place, so that they overlap."""
    length = chance.choice(LENGTHS)
    place = begin + chance.choice([quarter // 2, chance.randrange(quarter)])
    offset = max(begin, min(place - chance.randrange(length), begin + quarter - length))
    verb = chance.choice(["write", "write", "write", "zero"])
    if verb == "write":
        data = chance.randbytes(length)
        shadow[offset:offset + length] = data
        return drive.aio_pwrite(nbd.Buffer.from_bytearray(bytearray(data)), offset)
    shadow[offset:offset + length] = bytes(length)
    return drive.aio_zero(length, offset)


pending = [[] for _ in drives]
left = [CHANGES for _ in drives]
deepest = 0
while any(left) or any(pending):
    for index, drive in enumerate(drives):
        while left[index] > 0 and len(pending[index]) < IN_FLIGHT:
            pending[index].append(send(drive, index * quarter))
            left[index] -= 1
        deepest = max(deepest, drive.aio_in_flight())
        if pending[index]:
            drive.poll(-1)
            pending[index] = [cookie for cookie in pending[index] if not drive.aio_command_completed(cookie)]
assert deepest >= 64, deepest
for at in range(0, len(shadow), 1 << 20):
    assert drives[(at // quarter + 1) % 4].pread(1 << 20, at) == shadow[at:at + (1 << 20)], at
drives[0].flush()
open(path, "wb").write(shadow)
