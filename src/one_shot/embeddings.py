"""A cache of encoded images, so that an image that is needed several times is encoded once.

All runs segment a query before the next one is read. The images needed again are supports: one may be a support of
several runs, or a query of the other runs.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import tempfile
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Literal

import psutil
import torch
from torch import Tensor

from ..config.schema import Config
from ..errors import UserError
from ..files import free_space, resolve
from ..method.segmenter import Segmenter
from ..runtime import local_world_size
from ..screen import say
from .supports import Episodes

Place = Literal["none", "device", "memory", "disk"]

Encoder = Callable[[Sequence[Path], Tensor], Tensor]
"""Encodes B images, given as files and as pixels [B, 3, S, S], to embeddings [B, 1 + N, D]."""


class EmbeddingCache(AbstractContextManager):
    """Embeddings of images, kept on the device, in main memory or in a temporary file.

    Args:
        encode: encodes pixels [B, 3, S, S] to embeddings [B, 1 + N, D].
        place: where to keep embeddings; ``none`` encodes an image again every time.
        images: files of the images to keep; others are encoded every time.
        shape: (1 + N, D) of one image.
        dtype: dtype of the embeddings. Under autocast it is the number format of the text encoder, which would round
            them to it anyway.
        folder: for ``disk``; the temporary file is removed at the end.
        device: device of pixels and embeddings; with ``device`` nothing is copied.

    Raises:
        UserError: the folder cannot be written to.
    """

    def __init__(
        self,
        encode: Callable[[Tensor], Tensor],
        place: Place,
        images: Collection[Path],
        shape: tuple[int, int],
        dtype: torch.dtype,
        folder: Path,
        device: torch.device | str = "cpu",
    ) -> None:
        self.encode = encode
        self.device = torch.device(device)
        self.dtype = dtype
        self.place = place
        self._rows = {file: row for row, file in enumerate(sorted(images))}
        self._encoded: set[Path] = set()
        self._file: Any = None
        self._kept: Tensor | None = None
        if place in ("device", "memory"):
            self._kept = torch.empty(len(images), *shape, dtype=dtype, device=device if place == "device" else "cpu")
        elif place == "disk":
            try:
                folder.mkdir(parents=True, exist_ok=True)
                for left in folder.glob(".image_embeddings.*"):  # left by a process that was killed
                    with contextlib.suppress(OSError):
                        left.unlink()
                self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 (deleted when the process ends)
                room = len(images) * shape[0] * shape[1] * dtype.itemsize
                if hasattr(os, "posix_fallocate"):
                    os.posix_fallocate(self._file.fileno(), 0, room)  # a sparse file on a full disk causes a bus error
                self._file.truncate(room)
            except OSError as error:
                raise UserError(f"cache.dir {folder} cannot be written to: {error.strerror}") from error
            flat = torch.frombuffer(mmap.mmap(self._file.fileno(), room), dtype=dtype)
            self._kept = flat.view(len(images), *shape)

    @classmethod
    def for_runs(cls, config: Config, segmenter: Segmenter, episodes: Episodes) -> EmbeddingCache:
        """The cache for the runs ``episodes`` of one-shot tuning, by section ``cache`` of a configuration."""
        shape = segmenter.model.embeds_shape(segmenter.num_patches)
        dtype = segmenter.dtype or torch.float32
        times = Counter(episodes.supports)
        times.update({episodes.evaluation_list[index].image for index in episodes.queries})
        images = {file for file, count in times.items() if count > 1}
        needed = len(images) * shape[0] * shape[1] * dtype.itemsize * local_world_size()
        folder, device = resolve(config.cache.dir), segmenter.device
        place: Place = "none"
        if images:
            place = choose_place(config.cache.image_embeddings, needed, folder, _free_on(device))
        return cls(segmenter.encode_images, place, images, shape, dtype, folder, device)

    def get(self, files: Sequence[Path], pixels: Tensor) -> Tensor:
        """Embeddings [B, 1 + N, D] of images ``files`` with pixels [B, 3, S, S], on the pixels' device.

        An :data:`Encoder`. Images to keep are encoded one by one, the others as one batch. Otherwise the rounding would
        depend on which images the cache has, and that on interruptions.
        """
        others = [place for place, file in enumerate(files) if file not in self._rows]
        encoded = dict(zip(others, self.encode(pixels[others]).to(self.dtype) if others else (), strict=True))
        for place, file in enumerate(files):
            if file in self._rows:
                encoded[place] = self._of(file, pixels[place : place + 1])
        return torch.stack([encoded[place] for place in range(len(files))])

    def _of(self, file: Path, pixels: Tensor) -> Tensor:
        """Embedding [1 + N, D] of one of the images to keep."""
        if self._kept is None:
            return self.encode(pixels)[0].to(self.dtype)
        row = self._kept[self._rows[file]]
        if file not in self._encoded:
            row.copy_(self.encode(pixels)[0])
            self._encoded.add(file)
        return row.to(pixels.device)

    def __exit__(self, *_: object) -> None:
        self._kept = None
        if self._file is not None:
            self._file.close()


def _free_on(device: torch.device) -> int | None:
    """Free bytes of a device with its own memory; None if it uses the main memory."""
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else None


def choose_place(wanted: Literal["auto"] | Place, needed: int, folder: Path, on_device: int | None = None) -> Place:
    """Choose where to keep ``needed`` bytes of embeddings, and print the choice.

    ``auto`` is the first of device, memory and disk where they need less than half of the free space, or none.
    ``on_device`` are the free bytes of a device with its own memory.
    """
    memory, disk = psutil.virtual_memory().available, free_space(folder)
    if wanted != "auto":
        place: Place = wanted
    else:
        places: list[tuple[Place, int]] = [("device", on_device or 0), ("memory", memory), ("disk", disk)]
        fitting: list[Place] = [name for name, free in places if needed < free / 2]
        place = fitting[0] if fitting else "none"
    rooms = [f"{memory / 1e9:.1f} GB of memory", f"{disk / 1e9:.1f} GB of disk"]
    if on_device is not None:
        rooms.insert(0, f"{on_device / 1e9:.1f} GB of the GPU")
    say(f"image embeddings: {needed / 1e9:.2f} GB ({', '.join(rooms)} are free), kept: {place}")
    if place == "device" and needed > (memory if on_device is None else on_device):
        raise UserError(f"cache.image_embeddings: device needs {needed / 1e9:.1f} GB on it; use memory, disk, or none")
    if place == "memory" and needed > memory:
        raise UserError(f"cache.image_embeddings: memory needs {needed / 1e9:.1f} GB; use disk, or none")
    if place == "disk" and needed > disk:
        raise UserError(
            f"cache.image_embeddings: disk needs {needed / 1e9:.1f} GB in {folder}; use none, or another cache.dir"
        )
    return place
