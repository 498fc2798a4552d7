"""The pipeline of photos: in order, a bounded number at once, and no threads left when it ends."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import pytest

from src.errors import UserError
from src.photos import pipeline
from src.photos.photo_files import PhotoFile
from src.photos.pipeline import Drawing, Drawn

PHOTOS = [PhotoFile(Path(f"{number}.png"), str(number)) for number in range(23)]


@pytest.fixture(autouse=True)
def _four_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "cores", lambda: 4)
    monkeypatch.setattr(pipeline, "photo_pixels", lambda _: 100)


class Stages:
    """Stages that record their calls, and fail for some photos."""

    def __init__(self, unreadable: str = "", unseen: str = "", undrawn: str = "", unwritten: str = "") -> None:
        self.fails = {name: part.split() for name, part in locals().items() if name not in ("self", "__class__")}
        self.lock = threading.Lock()
        self.on_their_way = self.most = 0
        self.batches: list[list[str]] = []
        self.finished: list[str] = []

    def read(self, photo: PhotoFile) -> str:
        with self.lock:
            self.on_their_way += 1
            self.most = max(self.most, self.on_their_way)
        return self._unless("unreadable", photo.name)

    def analyse(self, photos: Sequence[str]) -> list[Drawing | Exception]:
        self.batches.append(list(photos))
        unseen = self.fails["unseen"]
        return [
            RuntimeError("unseen") if name in unseen else Drawing(name, {"a": partial(self._draw, name)})
            for name in photos
        ]

    def finish(self, photo: PhotoFile, drawn: Drawn | Exception) -> None:
        self._unless("unwritten", photo.name)
        if isinstance(drawn, Drawn):
            assert drawn == Drawn(photo.name, {"a": photo.name.encode()})
        self.finished.append(photo.name if isinstance(drawn, Drawn) else f"{photo.name} {drawn}")
        with self.lock:
            self.on_their_way -= 1

    def _draw(self, name: str) -> bytes:
        return self._unless("undrawn", name).encode()

    def _unless(self, what: str, name: str) -> str:
        if name in self.fails[what]:
            raise UserError(what)
        return name


def no_thread_is_left() -> bool:
    return not any(thread.name.startswith("photos") for thread in threading.enumerate())


@pytest.mark.parametrize("batch_size", [1, 3, 50])
def test_results_and_errors_keep_the_order_of_photos(batch_size: int) -> None:
    stages = Stages(unreadable="0 7 22", unseen="4 8", undrawn="12")
    pipeline.run_stages(stages, PHOTOS, batch_size)
    failed = {"0": "unreadable", "7": "unreadable", "22": "unreadable", "4": "unseen", "8": "unseen", "12": "undrawn"}
    names = [photo.name for photo in PHOTOS]
    assert stages.finished == [f"{name} {failed[name]}" if name in failed else name for name in names]
    assert [name for batch in stages.batches for name in batch] == [
        name for name in names if failed.get(name) != "unreadable"
    ]
    assert max(map(len, stages.batches)) == min(batch_size, 20)
    assert no_thread_is_left()


@pytest.mark.parametrize("batch_size", [1, 2, 4])
def test_the_number_of_photos_in_the_pipeline_is_bounded(batch_size: int) -> None:
    """The first photo is written only when the pipeline is full: waiting photos must not fill the memory."""
    stages, bound, full = Stages(), 2 * batch_size + 4, threading.Event()
    read, finish = stages.read, stages.finish

    def counted(photo: PhotoFile) -> str:
        name = read(photo)
        if stages.on_their_way >= bound:
            full.set()
        return name

    def late(photo: PhotoFile, drawn: Drawn | Exception) -> None:
        if photo.name == "0":
            assert full.wait(60)
            time.sleep(0.1)  # one more would have arrived by now
        finish(photo, drawn)

    stages.read, stages.finish = counted, late
    pipeline.run_stages(stages, PHOTOS, batch_size)
    assert stages.most == bound
    assert len(stages.finished) == len(PHOTOS)


def test_fewer_large_photos_are_in_the_pipeline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "MAX_PIXELS", 800)
    assert [len(batch.photos) for batch in pipeline.photo_batches(PHOTOS[:5], 4)] == [2, 2, 1]
    monkeypatch.setattr(pipeline, "MAX_PIXELS", 199)
    stages = Stages()
    pipeline.run_stages(stages, PHOTOS, 4)
    assert stages.most == 1
    assert len(stages.finished) == len(PHOTOS)


@pytest.mark.parametrize("batch_size", [1, 3])
def test_a_write_error_ends_the_pipeline(batch_size: int) -> None:
    stages = Stages(unwritten="5")
    with pytest.raises(UserError, match="unwritten"):
        pipeline.run_stages(stages, PHOTOS, batch_size)
    assert stages.finished == ["0", "1", "2", "3", "4"]
    assert no_thread_is_left()


@pytest.mark.parametrize("stage", ["analyse", "read", "draw"])
def test_an_interruption_leaves_no_thread_and_finishes_no_other_photo(stage: str) -> None:
    """The interruption reaches the thread that runs the model, whatever the other threads do."""
    stages, interrupted = Stages(), threading.Event()
    analyse = stages.analyse

    def interrupt(photos: Sequence[str]) -> list[Drawing | Exception]:
        if len(stages.batches) == 2:
            interrupted.set()
            raise KeyboardInterrupt
        return analyse(photos)

    def after_it(work: Callable[..., object]) -> Callable[..., object]:
        return lambda argument: (interrupted.wait(60), work(argument))[1]

    stages.analyse = interrupt
    if stage == "draw":
        stages._draw = after_it(stages._draw)  # pyright: ignore
    read = stages.read
    if stage == "read":
        stages.read = lambda photo: (int(photo.name) < 3 or interrupted.wait(60), read(photo))[1]
    with pytest.raises(KeyboardInterrupt):
        pipeline.run_stages(stages, PHOTOS, 1)
    assert stages.finished in ([], ["0"], ["0", "1"])
    assert no_thread_is_left()
