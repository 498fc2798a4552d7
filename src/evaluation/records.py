"""Records of finished work in append-only files.

A file is a sequence of records, each a header and a payload with a checksum. Reading stops at the first incomplete
record, as a killed process leaves it. Each process appends to its own file; any number of files can be combined.
"""

from __future__ import annotations

import contextlib
import os
import struct
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors.numpy import load, save

HEADER = struct.Struct("<q16sII")  # block, fingerprint, length of the payload, checksum


@dataclass(frozen=True)
class Record:
    """The contribution of one block of images.

    Attributes:
        block: number of the block.
        fingerprint: 16 bytes that identify its input, see :func:`src.evaluation.identity.fingerprint`.
        payload: named arrays, see :func:`pack`.
    """

    block: int
    fingerprint: bytes
    payload: bytes

    def encode(self) -> bytes:
        """The record as bytes for a file."""
        checksum = self._checksum()
        return HEADER.pack(self.block, self.fingerprint, len(self.payload), checksum) + self.payload

    def _checksum(self) -> int:
        head = HEADER.pack(self.block, self.fingerprint, len(self.payload), 0)
        return zlib.crc32(self.payload, zlib.crc32(head))


def pack(arrays: Mapping[str, np.ndarray]) -> bytes:
    """Compress named arrays; counts are mostly zeros and shrink to a hundredth."""
    return zlib.compress(save({name: np.ascontiguousarray(array) for name, array in arrays.items()}), 1)


def unpack(payload: bytes) -> dict[str, np.ndarray]:
    """The inverse of :func:`pack`."""
    return load(zlib.decompress(payload))


def decode_records(data: bytes) -> Iterator[Record]:
    """The complete records at the beginning of ``data``."""
    place = 0
    while place + HEADER.size <= len(data):
        block, fingerprint, length, checksum = HEADER.unpack_from(data, place)
        place += HEADER.size
        record = Record(block, fingerprint, data[place : place + length])
        if len(record.payload) < length or record._checksum() != checksum:
            return
        place += length
        yield record


def read_records(files: Iterable[Path], unreadable: Callable[[Path, str], None] = lambda *_: None) -> Iterator[Record]:
    """The complete records of ``files``, file by file; a file that was deleted meanwhile has none.

    ``unreadable`` is called with a file that cannot be read and the reason.
    """
    for file in files:
        if file.exists() and not file.is_file():  # reading a named pipe would block
            unreadable(file, "it is not a regular file")
            continue
        try:
            data = file.read_bytes()
        except FileNotFoundError:
            continue
        except OSError as error:
            unreadable(file, error.strerror or str(error))
            continue
        yield from decode_records(data)


class RecordFile:
    """Appends records to a new file, which is created with the first record.

    Args:
        expected: number of records to come. Space for all is reserved, estimated from the first ones, so that hours of
            work are not lost if other programs fill the disk.
    """

    def __init__(self, path: Path, expected: int) -> None:
        self.path = path
        self._expected = expected
        self._records = self._bytes = self._reserved = 0
        self._file: int | None = None

    def write(self, records: Sequence[Record]) -> None:
        """Append ``records`` and wait until they are on the disk.

        Raises:
            OSError: the disk is full, or the folder cannot be written to.
        """
        data = b"".join(record.encode() for record in records)
        if self._file is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
        self._reserve(len(records), len(data))
        # seek to the last complete record: a write that a signal or a full disk interrupted is overwritten
        done = 0
        while done < len(data):
            os.lseek(self._file, self._bytes + done, os.SEEK_SET)
            done += os.write(self._file, memoryview(data)[done:])
        os.fsync(self._file)
        self._records += len(records)
        self._bytes += len(data)

    def close(self) -> None:
        """Release the reserved space that was not needed."""
        if self._file is not None:
            os.ftruncate(self._file, self._bytes)
            os.close(self._file)
            self._file = None

    def _reserve(self, records: int, size: int) -> None:
        """Reserve space for all expected records, at 1.5 times the mean size so far."""
        if self._bytes + size <= self._reserved or not hasattr(os, "posix_fallocate"):
            return
        assert self._file is not None
        count = self._records + records
        wanted = int(1.5 * (self._bytes + size) / count * max(self._expected, count))
        # if this fails, a write to a full disk will raise the error
        with contextlib.suppress(OSError):
            os.posix_fallocate(self._file, 0, wanted)
        self._reserved = wanted
