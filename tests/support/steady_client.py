"""A client that reads and writes on and on, and bears no error: steady_client.py URI

The upper half of the disk is filled and flushed first. Then one connection writes to the lower half and flushes, and
another one reads the upper half. Prints "flushed N" after each flush and "read N" after each read. At the end of its
input it flushes, reads everything back and prints "intact"; if a request fails, or a byte is not what it should be, it
says "failed: ..." and ends at once.
"""
import os
import random
import struct
import sys
import threading
import time

import nbd

BLOCK = 4096
STEP = 64  # blocks of a long request


def content(version, block):
    return struct.pack("<QQ", version, block) * (BLOCK // 16)


def say(text):
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def connect(uri):
    drive = nbd.NBD()
    drive.set_uri_allow_local_file(True)  # its certificates
    drive.connect_uri(uri)
    return drive


class Client:
    def __init__(self, uri):
        self.uri = uri
        self.drive = connect(uri)
        self.blocks = self.drive.get_size() // BLOCK
        self.half = self.blocks // 2
        self.versions = [0] * self.half + [1] * (self.blocks - self.half)
        self.ended = threading.Event()

    def expected(self, block):
        version = self.versions[block]
        return content(version, block) if version else bytes(BLOCK)

    def check(self, drive, first, count):
        found = drive.pread(count * BLOCK, first * BLOCK)
        for block in range(first, first + count):
            there = found[(block - first) * BLOCK:(block - first + 1) * BLOCK]
            if there != self.expected(block):
                raise ValueError(f"block {block} holds {there[:16].hex()}, version {self.versions[block]} was written")

    def write(self, first, count, version):
        data = b"".join(content(version, block) for block in range(first, first + count))
        self.drive.pwrite(data, first * BLOCK)
        self.versions[first:first + count] = [version] * count

    def fill(self):
        for first in range(self.half, self.blocks, STEP):
            self.write(first, min(STEP, self.blocks - first), 1)
        self.drive.flush()

    def write_on(self):
        chance = random.Random(1)
        version = 1
        while not self.ended.is_set():
            for _ in range(20):
                version += 1
                count = 1 + chance.randrange(40)
                self.write(chance.randrange(self.half - count), count, version)
            self.drive.flush()
            say(f"flushed {version}")

    def read_on(self):
        chance = random.Random(2)
        drive = connect(self.uri)
        number = 0
        while not self.ended.is_set():
            number += 1
            count = 1 + chance.randrange(STEP)
            self.check(drive, self.half + chance.randrange(self.half - count), count)
            say(f"read {number}")
            time.sleep(0.005)  # leaves the processor to the others

    def start(self, task):
        def run():
            try:
                task()
            except Exception as error:
                say(f"failed: {error}")
                os._exit(1)
        thread = threading.Thread(target=run)
        thread.start()
        return thread

    def run(self):
        self.fill()
        threads = [self.start(self.write_on), self.start(self.read_on)]
        sys.stdin.read()
        self.ended.set()
        for thread in threads:
            thread.join()
        self.drive.flush()
        for first in range(0, self.blocks, STEP):
            self.check(self.drive, first, min(STEP, self.blocks - first))
        say("intact")


Client(sys.argv[1]).run()
