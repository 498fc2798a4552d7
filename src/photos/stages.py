"""The stages of a photo: read, run the model, draw, write, and print a summary."""

from __future__ import annotations

import io
import operator
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from ..data.images import MAX_BYTES, read_photo
from ..errors import UserError
from ..evaluation.memory import within_memory
from ..evaluation.provenance import command_line
from ..explorer.content import page_content
from ..explorer.page import page
from ..files import write_bytes
from ..method.segmenter import FrameAnalysis, Segmenter
from ..output.exports import Export, LabelledPhoto
from ..screen import counted, note, say
from .photo import pictures_of, summary
from .photo_files import EXPLORER, LABELS, PhotoFile
from .pipeline import Drawing, Drawn


@dataclass(frozen=True)
class ReadPhoto:
    """A photo in memory: ``rgb`` uint8 [height, width, 3], ``pixels`` in the segmenter's frame, float32 [3, S, S]."""

    path: Path
    rgb: np.ndarray
    pixels: Tensor


class PhotoStages:
    """The stages of the command; see :class:`src.photos.pipeline.Stages`.

    Args:
        output: the folder for results.
        bar: counts finished photos; lines are printed above it.
        heat_maps: whether a heat map of each class is drawn.
        explorer: whether a page of the attention explorer is made of each photo.
        exports: get the labels of each photo.
        any_size: whether photos of any decoded size are read.

    Attributes:
        left_out: photos that could not be read or segmented.
    """

    def __init__(
        self,
        segmenter: Segmenter,
        output: Path,
        bar: tqdm,
        heat_maps: bool = False,
        explorer: bool = False,
        exports: Sequence[Export] = (),
        any_size: bool = False,
    ) -> None:
        self.segmenter = segmenter
        self.output = output
        self.heat_maps = heat_maps
        self.explorer = explorer
        self.bar = bar
        self.exports = exports
        self.any_size = any_size
        self.left_out: list[Path] = []

    def read(self, photo: PhotoFile) -> ReadPhoto:
        """Decode a photo and put it into the frame; see :func:`src.data.images.read_photo`."""
        rgb = read_photo(
            photo.path, None if self.any_size else MAX_BYTES, "scale it down, or lift the limit with --any-size"
        )
        return ReadPhoto(photo.path, rgb, self.segmenter.frame.image(rgb))

    def analyse(self, photos: Sequence[ReadPhoto]) -> list[Drawing | Exception]:
        """Run the model on some photos; returns what to draw of each, or its error."""
        return [self._drawing(photo, seen) for photo, seen in zip(photos, self._see(photos), strict=True)]

    def finish(self, photo: PhotoFile, drawn: Drawn | Exception) -> None:
        """Write the files of a photo and print its summary or error. Raises UserError if a file cannot be written."""
        with nullcontext() if self.bar.disable else self.bar.external_write_mode():
            if isinstance(drawn, Drawn):
                self._write(photo, drawn)
            else:
                self.left_out.append(photo.path)
                named = isinstance(drawn, UserError)
                note(f"skipped: {drawn}" if named else f"skipped: image {photo.path}: {type(drawn).__name__}: {drawn}")
        self.bar.update()

    def _see(self, photos: Sequence[ReadPhoto]) -> list[FrameAnalysis | Exception]:
        if not photos:
            return []
        try:
            seen, _ = within_memory(self._run_model, photos, _halves, operator.add)
            return seen
        except Exception as error:  # an error of one photo must not stop the others
            if len(photos) == 1:
                return [UserError(f"image {photos[0].path}: {error}") if isinstance(error, UserError) else error]
        return [self._see([photo])[0] for photo in photos]

    def _run_model(self, photos: Sequence[ReadPhoto]) -> list[FrameAnalysis | Exception]:
        return [*self.segmenter.analyse_batch(torch.stack([photo.pixels for photo in photos]))]

    def _drawing(self, photo: ReadPhoto, seen: FrameAnalysis | Exception) -> Drawing | Exception:
        if isinstance(seen, Exception):
            return seen
        rgb, (height, width) = photo.rgb, photo.rgb.shape[:2]
        try:
            analysis = seen.at((height, width))
            parts = {f"{ending}.png": part for ending, part in pictures_of(rgb, analysis, self.heat_maps).items()}
            if self.explorer:
                analysed = (self.segmenter, rgb, analysis.embeds, analysis.labels)
                content = page_content(*analysed, photo.path.name, file=photo.path)
                parts[EXPLORER] = partial(page, content, command_line())
            return Drawing(f"\n{photo.path}  {width} x {height}\n{summary(analysis)}", parts)
        except Exception as error:
            return error

    def _write(self, photo: PhotoFile, drawn: Drawn) -> None:
        say(drawn.said)
        files = {ending: self.output / f"{photo.name}_{ending}" for ending in drawn.files}
        page_file = files.pop(EXPLORER, None)
        for ending, file in files.items():
            write_bytes(file, drawn.files[ending])
        for each in self.exports:
            with Image.open(io.BytesIO(drawn.files[LABELS])) as picture:
                each.add(LabelledPhoto(photo.path, photo.name, np.asarray(picture), self.segmenter.prompts.class_names))
        labels, overlay, *heat_maps = files.values()
        say(f"  wrote {labels}, {overlay.name}" + (f" and {counted(len(heat_maps), 'heat map')}" if heat_maps else ""))
        if page_file:
            write_bytes(page_file, drawn.files[EXPLORER])
            say(f"  wrote {page_file}: open it in a browser")


def _halves(photos: Sequence[ReadPhoto]) -> tuple[Sequence[ReadPhoto], Sequence[ReadPhoto]]:
    half = len(photos) // 2
    return photos[:half], photos[half:]
