"""Segment a folder of photos with the command's own stages: overlapping, and one photo after the other."""

from __future__ import annotations

import io
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from functools import partial
from pathlib import Path

from PIL import Image

from src.config.reader import load_config
from src.files import REPOSITORY
from src.photos import pipeline
from src.photos.photo_files import PhotoFile
from src.photos.photo_segmenter import segmenter_of_words
from src.photos.pipeline import Drawn
from src.photos.stages import PhotoStages
from src.photos.words import prompts_of_words
from src.screen import counted, progress, say
from tools.benchmark.options import Options
from tools.miniature.draw import draw_listed_scene

PHOTOS = 200
SIZES = ((320, 240), (1600, 1200))  # width and height, pixels
CLASSES = "boat; bus; cat; dog"
CONFIG = REPOSITORY / "configs/miniature.yaml"


def photos(options: Options, amp: str, count: int = PHOTOS, sizes: Sequence[tuple[int, int]] = SIZES) -> None:
    """Print photos per second of both ways, by the size of the photos, on the shipped miniature model."""
    config = load_config(CONFIG, [f"runtime.amp={amp}"])
    segmenter = segmenter_of_words(config, prompts_of_words(config, CLASSES), options.device)
    photos_ = counted(count, "photo")
    say(f"{photos_}, up to {options.batch_size} at once through the model, {segmenter.number_format.name}")
    say("| photos | one by one, photos / s | overlapping, photos / s | ratio |\n|---|---|---|---|")
    for width, height in sizes:
        with tempfile.TemporaryDirectory() as folder, progress(0, "", disable=True) as bar:
            drawn = draw_photos(Path(folder), count, (width, height))
            stages = PhotoStages(segmenter, Path(folder) / "out", bar)
            ways = (
                partial(one_by_one, stages, drawn),
                partial(pipeline.run_stages, stages, drawn, options.batch_size),
            )
            # alternating, so that other load of the machine affects both
            seconds = [[_seconds(way) for way in ways] for _ in range(options.warm_up + options.repeats)]
        plain, ours = (count / min(taken) for taken in zip(*seconds[options.warm_up :], strict=True))
        say(f"| {width} x {height} | {plain:.1f} | {ours:.1f} | {ours / plain:.2f} x |")


def draw_photos(folder: Path, count: int, size: tuple[int, int]) -> list[PhotoFile]:
    """Write ``count`` scenes of the miniature as JPEGs of ``size`` (width, height) pixels."""
    drawn = []
    for number in range(count):
        drawn.append(PhotoFile(folder / f"{number:03}.jpg", f"{number:03}"))
        scene = Image.fromarray(draw_listed_scene("val", number).canvas.picture)
        scene.resize(size, Image.Resampling.BICUBIC).save(drawn[-1].path, quality=90)
    return drawn


def one_by_one(stages: PhotoStages, photos: Sequence[PhotoFile]) -> None:
    """The work of :func:`src.photos.pipeline.run_stages` without overlap."""
    for photo in photos:
        try:
            (drawing,) = stages.analyse([stages.read(photo)])
            if isinstance(drawing, Exception):
                raise drawing
            drawn = Drawn(drawing.said, {ending: part() for ending, part in drawing.parts.items()})
        except Exception as error:
            drawn = error
        stages.finish(photo, drawn)


def _seconds(way: Callable[[], None]) -> float:
    start = time.perf_counter()
    with redirect_stdout(io.StringIO()):
        way()
    return time.perf_counter() - start
