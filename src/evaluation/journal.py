"""What an unfinished run has done so far, kept on the disk so that the same command can go on.

A run's journal is a folder beside its results, named by a digest of all that the results depend on. In it lie the
settings behind the digest, readable, and records (:mod:`src.evaluation.records`): one per block of images, with what
these images contributed, in a file per process that worked on it. Scores are sums of whole numbers and InfoScore is a
function of each image's shares, so that it does not matter who computed what, when, or how often; of a block that was
computed twice one record counts. A finished run removes its journal.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import socket
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from torch import Tensor

from ..data.lists import ListEntry
from ..errors import UserError
from ..files import write_text
from ..runtime import local_rank, rank
from ..screen import note, say
from . import processes
from .records import Record, RecordFile, pack, read_records

FOLDER = "unfinished"
SETTINGS = "settings.json"
FLUSH_SECONDS = 2.0
"""What was computed is on the disk so many seconds later."""

SHOWN_DIFFERENCES = 3


class Journal(AbstractContextManager["Journal"]):
    """The journal of one run; the block in which it is open ends with the results written.

    Leaving the block in peace removes the journal. An exception keeps it, and carries a note that says how to go on.

    Args:
        results: a result file of the run; the journal lies in the folder :data:`FOLDER` beside it.
        settings: everything that the results depend on except the images' contents, as plain values.
        fresh: begin anew, whatever is there.
        skip_unreadable: go on without images that cannot be read.
    """

    def __init__(
        self, results: Path, settings: Mapping[str, Any], fresh: bool = False, skip_unreadable: bool = False
    ) -> None:
        self.settings: dict[str, Any] = json.loads(json.dumps(settings))
        self.fresh = fresh
        self.skip_unreadable = skip_unreadable
        self.folder = results.absolute().parent / FOLDER / f"{results.stem}_{digest_of_settings(self.settings)[:16]}"
        self._stem = results.stem
        self._file: RecordFile | None = None
        self._waiting: list[tuple[int, bytes, Mapping[str, Tensor]]] = []
        self._unwritten: list[Record] = []
        self._flushed = time.monotonic()
        self._complained = False
        self._check: Callable[[], None] = lambda: None
        self.done = self.total = 0
        """Images whose records there are, and images in all."""

    @classmethod
    def nowhere(cls) -> Journal:
        """A journal that keeps nothing on the disk, for what begins and ends in one call."""
        return _Nowhere(Path("nowhere"), {})

    def __enter__(self) -> Journal:
        first = processes.share(lambda: self.settings)
        different = differences(self.settings, first)
        if different:
            raise UserError(f"process {rank()} would compute something else than process 0: {'; '.join(different)}")
        if self.fresh and local_rank() == 0:
            shutil.rmtree(self.folder, ignore_errors=True)
        processes.wait_for_all()  # nobody reads what is about to be removed
        self._mention_others()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        if error is None:
            self.flush()
        else:
            with contextlib.suppress(UserError):  # what must not be kept; the error says more
                self.flush()
        if self._file is not None:
            self._file.close()
        if error is not None:
            if self.done:
                error.add_note(f"{self._progress()} are kept in {self.folder}: the same command goes on from there")
            return
        processes.share(lambda: None)  # the first process has written the results
        self._remove()

    def records(self, fingerprints: Sequence[bytes]) -> dict[int, bytes]:
        """Payloads of the blocks that were computed before, by number; those of other ``fingerprints`` do not count."""
        found = {}
        for record in read_records(sorted(self.folder.glob("*.records"))):
            if record.block < len(fingerprints) and record.fingerprint == fingerprints[record.block]:
                found[record.block] = record.payload
        return found

    def begin(self, mine: int, done: int, total: int, check: Callable[[], None]) -> None:
        """Begin a pass, and say how much was done before.

        Args:
            mine: how many blocks this process will keep.
            done: images that were done before, by any process.
            total: all images of the pass.
            check: is called before anything is written, and raises if it must not be.
        """
        self._check = check
        name = f"{socket.gethostname()}-{os.getpid()}-{time.time_ns()}.records"
        self._file = RecordFile(self.folder / name, mine)
        self.done, self.total = done, total
        if done:
            say(f"going on: {self._progress()} are done ({self.folder}); --fresh begins anew")

    def keep(self, block: int, fingerprint: bytes, arrays: Mapping[str, Tensor]) -> list[tuple[int, bytes]]:
        """Keep what ``block`` contributed; it is on the disk :data:`FLUSH_SECONDS` later.

        Returns:
            Number and payload of the blocks that were written now, this one among them or not.
        """
        self._waiting.append((block, fingerprint, arrays))
        return self.flush() if time.monotonic() - self._flushed >= FLUSH_SECONDS else []

    def flush(self) -> list[tuple[int, bytes]]:
        """Write what waits; returns as :meth:`keep`. A full disk does not end the run: it may have room later."""
        self._flushed = time.monotonic()
        if not (self._waiting or self._unwritten) or self._file is None:
            return []
        waiting, self._waiting = self._waiting, []
        self._check()  # if it raises, nothing of what waited is written
        records = [
            Record(block, fingerprint, pack({name: array.cpu().numpy() for name, array in arrays.items()}))
            for block, fingerprint, arrays in waiting
        ]
        self._write(records)
        return [(record.block, record.payload) for record in records]

    def _write(self, records: list[Record]) -> None:
        self._unwritten += records
        try:
            if not (self.folder / SETTINGS).exists():
                write_text(self.folder / SETTINGS, json.dumps(self.settings, indent=1, ensure_ascii=False) + "\n")
            assert self._file is not None
            self._file.write(self._unwritten)
            self._unwritten.clear()
        except (OSError, UserError) as error:
            if not self._complained:
                reason = error.strerror if isinstance(error, OSError) else error
                note(f"note: {self.folder} cannot be written to ({reason}); the run goes on, but might not be resumed")
            self._complained = True

    def _progress(self) -> str:
        return f"{self.done:,} of {self.total:,} images"

    def _mention_others(self) -> None:
        """Name unfinished runs of the same results that are not this one, and why not."""
        pattern = re.compile(re.escape(self._stem) + "_[0-9a-f]{16}")
        for other in sorted(self.folder.parent.glob(f"{self._stem}_*")):
            if other == self.folder or not pattern.fullmatch(other.name):
                continue
            try:
                settings = json.loads((other / SETTINGS).read_text(encoding="utf-8"))
            except (OSError, ValueError):
                continue
            different = differences(settings, self.settings)
            more = len(different) - SHOWN_DIFFERENCES
            shown = "; ".join(different[:SHOWN_DIFFERENCES]) + (f"; and {more} more" if more > 0 else "")
            note(f"note: an unfinished run with other settings lies in {other}: {shown}; `rm -r {other}` removes it")

    def _remove(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
        with contextlib.suppress(OSError):
            self.folder.parent.rmdir()  # if no other run lies there


class _Nowhere(Journal):
    def records(self, fingerprints: Sequence[bytes]) -> dict[int, bytes]:
        return {}

    def _write(self, records: list[Record]) -> None:
        pass


def digest_of_settings(settings: Mapping[str, Any]) -> str:
    """SHA-256 of plain values."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()


def fingerprint(entries: Iterable[ListEntry], masks: bool, weights: str) -> bytes:
    """16 bytes that say what a block is made from: its files by path, size and time, and weights that were tuned."""
    digest = hashlib.blake2b(weights.encode(), digest_size=16)
    for entry in entries:
        for path in (entry.image, entry.mask if masks else None):
            try:
                status = os.stat(path) if path is not None else None
            except OSError:
                status = None
            digest.update(repr((str(path), status and (status.st_size, status.st_mtime_ns))).encode())
    return digest.digest()


def differences(there: Mapping[str, Any], here: Mapping[str, Any]) -> list[str]:
    """Which settings differ, as texts: ``crf.iters: there 20, here 0``."""
    one, other = dict(_flat(there)), dict(_flat(here))
    texts = []
    for key in dict.fromkeys([*one, *other]):
        values = [json.dumps(side[key], ensure_ascii=False) if key in side else "nothing" for side in (one, other)]
        if values[0] != values[1]:
            short = max(map(len, values)) <= 40
            texts.append(f"{key}: there {values[0]}, here {values[1]}" if short else f"{key} differs")
    return texts


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
