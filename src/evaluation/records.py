"""Records of finished work in append-only files: what is written stays, what is cut off is recognised.

A file is a row of records, each a header and a payload under one checksum. Reading ends at the first record that is not
whole: the tail of a file whose process was killed, or room that was reserved and not used. A process only ever appends
to a file of its own, so that nothing but the tail can be broken, and any number of files can be read together.
"""

from __future__ import annotations

import contextlib
import os
import struct
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors.numpy import load, save

HEADER = struct.Struct("<q16sII")  # block, fingerprint, length of the payload, checksum


@dataclass(frozen=True)
class Record:
    """What one block of images contributed.

    Attributes:
        block: its number in the list of blocks.
        fingerprint: 16 bytes that say what it was made from, see :mod:`src.evaluation.journal`.
        payload: named arrays, see :func:`pack`.
    """

    block: int
    fingerprint: bytes
    payload: bytes

    def encode(self) -> bytes:
        """The record as it stands in a file."""
        checksum = self._checksum()
        return HEADER.pack(self.block, self.fingerprint, len(self.payload), checksum) + self.payload

    def _checksum(self) -> int:
        head = HEADER.pack(self.block, self.fingerprint, len(self.payload), 0)
        return zlib.crc32(self.payload, zlib.crc32(head))


def pack(arrays: Mapping[str, np.ndarray]) -> bytes:
    """Named arrays as a payload; counts are nearly all zeros and shrink to a hundredth."""
    return zlib.compress(save({name: np.ascontiguousarray(array) for name, array in arrays.items()}), 1)


def unpack(payload: bytes) -> dict[str, np.ndarray]:
    """The arrays that :func:`pack` was given."""
    return load(zlib.decompress(payload))


def decode(data: bytes) -> Iterator[Record]:
    """The whole records at the beginning of ``data``."""
    place = 0
    while place + HEADER.size <= len(data):
        block, fingerprint, length, checksum = HEADER.unpack_from(data, place)
        place += HEADER.size
        record = Record(block, fingerprint, data[place : place + length])
        if len(record.payload) < length or record._checksum() != checksum:
            return
        place += length
        yield record


def read_records(files: Iterable[Path]) -> Iterator[Record]:
    """The whole records of ``files``, file by file. A file that vanishes meanwhile holds none."""
    for file in files:
        with contextlib.suppress(FileNotFoundError):
            yield from decode(file.read_bytes())


class RecordFile:
    """Appends records to a file of its own, made with the first of them.

    Args:
        path: a file that does not exist yet; its folder is made if need be.
        expected: so many records will come; room for them is reserved from the size of the first ones, so that a disk
            that others fill meanwhile does not leave a journal without the last hours.
    """

    def __init__(self, path: Path, expected: int) -> None:
        self.path = path
        self._expected = expected
        self._records = self._bytes = self._reserved = 0
        self._file: int | None = None

    def write(self, records: Sequence[Record]) -> None:
        """Append ``records``; when this returns, the disk holds them.

        Raises:
            OSError: the disk is full, or the folder cannot be written to.
        """
        data = b"".join(record.encode() for record in records)
        if self._file is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
        self._reserve(len(records), len(data))
        # at its place, not at the end: a write that a signal or a full disk interrupted is written over
        done = 0
        while done < len(data):
            os.lseek(self._file, self._bytes + done, os.SEEK_SET)
            done += os.write(self._file, memoryview(data)[done:])
        os.fsync(self._file)
        self._records += len(records)
        self._bytes += len(data)

    def close(self) -> None:
        """Give back the room that was not needed."""
        if self._file is not None:
            os.ftruncate(self._file, self._bytes)
            os.close(self._file)
            self._file = None

    def _reserve(self, records: int, size: int) -> None:
        """Reserve room for all expected records, at the mean size of those that there are and half as much again."""
        if self._bytes + size <= self._reserved or not hasattr(os, "posix_fallocate"):
            return
        assert self._file is not None
        count = self._records + records
        wanted = int(1.5 * (self._bytes + size) / count * max(self._expected, count))
        # where a file system has no reserving, or too little room for all, writing will say so when it comes to it
        with contextlib.suppress(OSError):
            os.posix_fallocate(self._file, 0, wanted)
        self._reserved = wanted
