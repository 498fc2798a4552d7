"""A pipeline for photos: while the model runs, the next photos are read and the previous ones drawn and written.

Threads suffice: decoders, PyTorch, OpenCV and zlib release Python's lock. The calling thread runs the model, a pool of
threads reads and draws, and one thread writes and prints in the order of the photos.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol, TypeVar

from ..data.images import photo_pixels
from ..runtime import cores
from .photo_files import PhotoFile

MAX_WORKERS = 8
MAX_PIXELS = 2**27
"""Of all photos on their way, unless one alone has more. A pixel takes 3 bytes decoded and one of labels, and some 20
while it is drawn: half a gigabyte where photos wait, and 2.7 if all of them are drawn at once. Without a bound the
fastest stage would fill the memory in front of the slowest: 200 photos of 33 megapixels are 20 GB."""

Read = TypeVar("Read")


@dataclass(frozen=True)
class Drawing:
    """The line to print about a photo, and functions that make its files (in any thread), by the ending of the name."""

    said: str
    parts: Mapping[str, Callable[[], bytes]]


@dataclass(frozen=True)
class Drawn:
    """A finished :class:`Drawing`: files by the ending of their names."""

    said: str
    files: Mapping[str, bytes]


class Stages(Protocol[Read]):
    """The stages of photos. An error of a photo is a value that replaces the photo in all later stages."""

    def read(self, photo: PhotoFile) -> Read:
        """Read a photo; in any thread."""
        ...

    def analyse(self, photos: Sequence[Read]) -> Sequence[Drawing | Exception]:
        """Run the model on some photos as one batch; in the calling thread."""
        ...

    def finish(self, photo: PhotoFile, drawn: Drawn | Exception) -> None:
        """Write the results of a photo, print a summary; in one thread, photo by photo. An error ends the pipeline."""
        ...


def run_stages(stages: Stages[Read], photos: Iterable[PhotoFile], batch_size: int) -> None:
    """Run ``photos`` through ``stages``, up to ``batch_size`` at once through the model.

    Raises:
        Exception: raised by ``finish``; no later photo is finished. No thread remains in any case.
    """
    pipeline = _Pipeline(stages, batch_size)
    try:
        for batch in photo_batches(photos, batch_size):
            while not pipeline.has_room_for(batch):
                pipeline.go_on()
            pipeline.read(batch)
            if pipeline.batches_read > 1:  # one batch is read while the model runs another
                pipeline.analyse()
        while pipeline.photos:
            pipeline.go_on()
    finally:
        pipeline.close()


@dataclass(frozen=True)
class PhotoBatch:
    """Photos that run through the model together, and their numbers of pixels."""

    photos: Sequence[PhotoFile]
    pixels: Sequence[int]


def photo_batches(photos: Iterable[PhotoFile], size: int) -> Iterator[PhotoBatch]:
    """Cut ``photos`` into batches of ``size`` neighbours, or fewer if they are large, so that several batches fit."""
    taken: list[PhotoFile] = []
    pixels: list[int] = []
    for photo in photos:
        more = photo_pixels(photo.path)
        if taken and (len(taken) == size or sum(pixels) + more > MAX_PIXELS // 4):
            yield PhotoBatch(taken, pixels)
            taken, pixels = [], []
        taken.append(photo)
        pixels.append(more)
    if taken:
        yield PhotoBatch(taken, pixels)


class _Pipeline:
    """Photos between the stages: ``photos`` is their number, ``pixels`` their pixels in total."""

    def __init__(self, stages: Stages[Read], batch_size: int) -> None:
        self.photos = self.pixels = 0
        workers = min(cores(), MAX_WORKERS)
        # a batch being read, one in the model, and as many photos as can be drawn at once
        self._max_photos = 2 * batch_size + workers
        self._stages = stages
        self._pool = ThreadPoolExecutor(workers, "photos")
        self._writer = ThreadPoolExecutor(1, "photos-writer")
        self._read: deque[tuple[PhotoBatch, list[Future]]] = deque()
        self._finished: deque[tuple[int, Future[None]]] = deque()
        self._ended = threading.Event()

    @property
    def batches_read(self) -> int:
        """Batches that are being read, or wait for the model."""
        return len(self._read)

    def has_room_for(self, batch: PhotoBatch) -> bool:
        """Whether ``batch`` may be read now."""
        while self._finished and self._finished[0][1].done():
            self._settle()
        fits = self.photos + len(batch.photos) <= self._max_photos and self.pixels + sum(batch.pixels) <= MAX_PIXELS
        return fits or not self.photos

    def go_on(self) -> None:
        """Advance the photos in the earliest stage by one step; if none waits for the model, finish one."""
        if self._read:
            self.analyse()
        else:
            self._settle()

    def read(self, batch: PhotoBatch) -> None:
        """Start reading a batch."""
        self.photos += len(batch.photos)
        self.pixels += sum(batch.pixels)
        self._read.append((batch, [self._pool.submit(self._stages.read, photo) for photo in batch.photos]))

    def analyse(self) -> None:
        """Run the model on the oldest batch that was read, and start drawing."""
        batch, futures = self._read.popleft()
        read = [_outcome(future) for future in futures]
        analysed = iter(self._stages.analyse([each for each in read if not isinstance(each, Exception)]))
        for photo, pixels, each in zip(batch.photos, batch.pixels, read, strict=True):
            drawing = each if isinstance(each, Exception) else next(analysed)
            if isinstance(drawing, Exception):
                finished = self._writer.submit(self._finish, photo, drawing)
            else:
                parts = {ending: self._pool.submit(part) for ending, part in drawing.parts.items()}
                finished = self._writer.submit(self._finish_drawing, photo, drawing.said, parts)
            self._finished.append((pixels, finished))

    def close(self) -> None:
        """End all threads, each after its current photo; drop waiting ones."""
        self._ended.set()
        self._pool.shutdown(cancel_futures=True)
        self._writer.shutdown(cancel_futures=True)

    def _settle(self) -> None:
        """Wait for the oldest photo to be finished."""
        pixels, finished = self._finished.popleft()
        finished.result()
        self.photos -= 1
        self.pixels -= pixels

    def _finish_drawing(self, photo: PhotoFile, said: str, parts: Mapping[str, Future[bytes]]) -> None:
        try:
            drawn = Drawn(said, {ending: future.result() for ending, future in parts.items()})
        except CancelledError:
            return
        except Exception as error:
            drawn = error
        self._finish(photo, drawn)

    def _finish(self, photo: PhotoFile, drawn: Drawn | Exception) -> None:
        if self._ended.is_set():
            return
        try:
            self._stages.finish(photo, drawn)
        except BaseException:
            self._ended.set()  # no later photo may be written before the calling thread sees the error
            raise


def _outcome(future: Future[Read]) -> Read | Exception:
    try:
        return future.result()
    except Exception as error:  # an error of one photo must not stop the others
        return error
