"""The journal of an unfinished run: the same command resumes from it.

A run's journal is a folder next to its results, named by a digest of everything that they depend on. It contains these
settings as JSON, and records (:mod:`src.evaluation.records`): one per block of images, in one file per process. A block
may have several records, which are equivalent; one of them counts. A finished run removes its journal.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import shutil
import socket
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from ..errors import UserError
from ..files import read_regular, write_text
from ..runtime import local_rank, rank
from ..screen import counted, note, note_once, say
from . import processes
from .identity import digest
from .records import Record, RecordFile, pack, read_records

FOLDER = "unfinished"
SETTINGS = "settings.json"
FLUSH_SECONDS = 2.0
"""A computed block is written to the disk within this time."""

SHOWN_DIFFERENCES = 3
MAX_SETTINGS = 1 << 28  # bytes of a journal's settings


@dataclass(frozen=True)
class Block:
    """Images that are computed as one batch.

    Attributes:
        images: their indices in the list.
        fingerprint: identifies their files and the weights, see :func:`src.evaluation.identity.fingerprint`.
    """

    images: Sequence[int]
    fingerprint: bytes


class Journal(AbstractContextManager["Journal"]):
    """The journal of one run: a context that is open while the run computes and writes its results.

    Without an error, the end of the context removes the journal. An error keeps it and gets a note on its contents.

    Args:
        results: a result file of the run; the journal is in the folder :data:`FOLDER` next to it.
        settings: everything that the results depend on except the images' contents, as plain values.
        fresh: start over: remove the journal of an interrupted run.
    """

    def __init__(
        self, results: Path, settings: Mapping[str, Any], fresh: bool = False, skip_unreadable: bool = False
    ) -> None:
        self.settings: dict[str, Any] = json.loads(json.dumps(settings))
        self.fresh = fresh
        self.skip_unreadable = skip_unreadable
        self.folder = results.absolute().parent / FOLDER / f"{results.stem}_{digest(self.settings)[:16]}"
        self._stem = results.stem
        self._file: RecordFile | None = None
        self._blocks: Sequence[Block] = []
        self._waiting: list[tuple[int, Mapping[str, Tensor]]] = []
        self._unwritten: list[Record] = []
        self._flushed = time.monotonic()
        self._passes: list[Sequence[Block]] = []
        self._check: Callable[[], None] = lambda: None

    @classmethod
    def nowhere(cls) -> Journal:
        """A journal that writes nothing to the disk."""
        return _Nowhere(Path("nowhere"), {})

    def __enter__(self) -> Journal:
        first = processes.share(lambda: self.settings)
        different = differences(self.settings, first)
        if different:
            raise UserError(
                f"process {rank()} has other settings than process 0: {'; '.join(different)}; start all processes with "
                "the same command and data"
            )
        if self.fresh and local_rank() == 0:
            self._remove()
            if os.path.lexists(self.folder):
                raise UserError(f"--fresh cannot remove {self.folder}: remove it, or choose another --output-dir")
        processes.wait_for_all()  # no process may read a journal that another one is about to remove
        self._mention_others()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        if error is None:
            self.flush()
        else:
            with contextlib.suppress(UserError):  # the check of the waiting blocks failed; the first error says more
                self.flush()
        if self._file is not None:
            self._file.close()
        if error is not None:
            kept, total = self._images_on_disk()
            if kept:
                error.add_note(f"{kept:,} of {counted(total, 'image')} kept in {self.folder}: the same command resumes")
            return
        processes.share(lambda: None)  # wait until the first process has written the results
        self._remove()
        if self.folder.is_dir():
            note(f"note: {self.folder} cannot be removed; the run is finished, so you can delete it")

    def records(self, blocks: Sequence[Block]) -> Iterator[tuple[int, bytes]]:
        """Number and payload of each record of one of ``blocks``; a block may have several records."""
        for record in read_records(sorted(self.folder.glob("*.records")), _unreadable_file):
            if record.block < len(blocks) and record.fingerprint == blocks[record.block].fingerprint:
                yield record.block, record.payload

    def begin(self, blocks: Sequence[Block], missing: Sequence[int], check: Callable[[], None]) -> None:
        """Begin a pass over the images, and print how many an interrupted command computed.

        Args:
            blocks: all blocks.
            missing: numbers of the blocks that are not done; this process computes its share of them.
            check: called before blocks are written; raises if they must not be.
        """
        self._check, self._blocks = check, blocks
        self._passes.append(blocks)
        if self._file is not None:
            self._file.close()
        name = f"{socket.gethostname()}-{os.getpid()}-{time.time_ns()}.records"
        self._file = RecordFile(self.folder / name, len(processes.share_of(missing)))
        total = count_images(blocks)
        done = total - count_images(blocks[number] for number in missing)
        if done:
            say(f"resuming: {done:,} of {counted(total, 'image')} done ({self.folder}); --fresh starts over")

    def keep(self, block: int, arrays: Mapping[str, Tensor]) -> list[tuple[int, bytes]]:
        """Keep the contribution of block number ``block``; it is written within :data:`FLUSH_SECONDS`.

        Returns number and payload of the blocks that this call packed, which may or may not include ``block``.
        """
        self._waiting.append((block, arrays))
        return self.flush() if time.monotonic() - self._flushed >= FLUSH_SECONDS else []

    def flush(self) -> list[tuple[int, bytes]]:
        """Write the waiting blocks; returns as :meth:`keep`. A full disk does not end the run: it tries again later."""
        self._flushed = time.monotonic()
        if not (self._waiting or self._unwritten) or self._file is None:
            return []
        waiting, self._waiting = self._waiting, []
        self._check()  # if it raises, none of the waiting blocks is written
        records = [
            Record(
                block,
                self._blocks[block].fingerprint,
                pack({name: array.cpu().numpy() for name, array in arrays.items()}),
            )
            for block, arrays in waiting
        ]
        self._write(records)
        return [(record.block, record.payload) for record in records]

    def discard(self) -> None:
        """Remove what is kept, because it is of no use to a later command."""
        if self._file is not None:
            self._file.close()
        self._file, self._passes = None, []
        self._remove()

    def _write(self, records: list[Record]) -> None:
        self._unwritten += records
        try:
            if not (self.folder / SETTINGS).exists():
                write_text(self.folder / SETTINGS, json.dumps(self.settings, indent=1, ensure_ascii=False) + "\n")
            assert self._file is not None
            self._file.write(self._unwritten)
            self._unwritten.clear()
        except (OSError, UserError) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            note_once(f"note: cannot write to {self.folder} ({reason}); the run continues, but may not be resumable")

    def _images_on_disk(self) -> tuple[int, int]:
        """Number of images that have a record in the folder now, and number of all images, over all passes."""
        kept = 0
        for blocks in self._passes:
            kept += count_images(blocks[number] for number in {number for number, _ in self.records(blocks)})
        return kept, sum(map(count_images, self._passes))

    def _mention_others(self) -> None:
        """Print unfinished runs of the same results with other settings, and which settings differ."""
        pattern = re.compile(re.escape(self._stem) + "_[0-9a-f]{16}")
        for other in sorted(self.folder.parent.glob("*")):  # not the stem, which may hold a [ or a *
            if other == self.folder or not pattern.fullmatch(other.name) or not (other / SETTINGS).is_file():
                continue
            try:
                settings = json.loads(read_regular(other / SETTINGS, MAX_SETTINGS))
            except (OSError, ValueError, RecursionError):
                continue
            different = differences(settings if isinstance(settings, dict) else {}, self.settings)
            more = len(different) - SHOWN_DIFFERENCES
            shown = "; ".join(different[:SHOWN_DIFFERENCES]) + (f"; and {more} more" if more > 0 else "")
            remedy = f"`rm -r {shlex.quote(str(other))}` removes it"
            note(f"note: {other} is an unfinished run with other settings: {shown}; {remedy}")

    def _remove(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
        with contextlib.suppress(OSError):
            self.folder.parent.rmdir()  # fails if it contains another run


class _Nowhere(Journal):
    def discard(self) -> None:
        pass

    def records(self, blocks: Sequence[Block]) -> Iterator[tuple[int, bytes]]:
        return iter(())

    def _write(self, records: list[Record]) -> None:
        pass


def count_images(blocks: Iterable[Block]) -> int:
    """Number of images in ``blocks``."""
    return sum(len(block.images) for block in blocks)


def _unreadable_file(path: Path, reason: str) -> None:
    note_once(f"note: cannot read {path} ({reason}); the images in it are computed again")


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
