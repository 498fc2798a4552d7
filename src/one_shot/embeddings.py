"""Encoded images that are asked for more than once, kept so that each is encoded once.

All runs look at a query before the next one is read. What comes again is a support: of several runs, or a query of the
others.
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
"""Makes embeddings [B, 1 + N, D] of B images, given as their files and as their pixels [B, 3, S, S]."""


class EmbeddingCache(AbstractContextManager):
    """Embeddings of images, on the device, in main memory or in a temporary file, kept as they are computed.

    Args:
        encode: makes embeddings [B, 1 + N, D] of pixels [B, 3, S, S].
        place: where to keep them; ``none`` encodes anew every time.
        images: files of the images to keep; others are encoded whenever they are asked for.
        shape: (1 + N, D) of one image.
        dtype: in which they are kept and given. Under autocast the text encoder rounds them to its number format
            anyway, so that having them in it changes nothing.
        folder: for ``disk``; the file is removed at the end.
        device: where pixels and embeddings are asked for; ``device`` keeps them there, and nothing is ever copied.

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
                for left in folder.glob(".image_embeddings.*"):  # of a process that could not tidy up
                    with contextlib.suppress(OSError):
                        left.unlink()
                self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 (without a name: it goes with its process)
                room = len(images) * shape[0] * shape[1] * dtype.itemsize
                if hasattr(os, "posix_fallocate"):
                    os.posix_fallocate(self._file.fileno(), 0, room)  # a sparse file on a full disk ends in a bus error
                self._file.truncate(room)
            except OSError as error:
                raise UserError(f"cache.dir {folder} cannot be written to: {error.strerror}") from error
            flat = torch.frombuffer(mmap.mmap(self._file.fileno(), room), dtype=dtype)
            self._kept = flat.view(len(images), *shape)

    @classmethod
    def for_runs(cls, config: Config, segmenter: Segmenter, episodes: Episodes) -> EmbeddingCache:
        """The cache that a configuration asks for, for the runs ``episodes`` of one-shot tuning."""
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

        An :data:`Encoder`; pixels of an image that is kept already are not looked at. An image that is to be kept is
        encoded alone, the others together: else numbers would depend on which of them came before, and that on
        interruptions.
        """
        others = [place for place, file in enumerate(files) if file not in self._rows]
        encoded = dict(zip(others, self.encode(pixels[others]).to(self.dtype) if others else (), strict=True))
        for place, file in enumerate(files):
            if file in self._rows:
                encoded[place] = self._of(file, pixels[place : place + 1])
        return torch.stack([encoded[place] for place in range(len(files))])

    def _of(self, file: Path, pixels: Tensor) -> Tensor:
        """Embedding [1 + N, D] of one of the images that are to be kept."""
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
    """Free bytes of a device that has a memory of its own; None where it is the main memory."""
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else None


def choose_place(wanted: Literal["auto"] | Place, needed: int, folder: Path, on_device: int | None = None) -> Place:
    """Where to keep ``needed`` bytes of embeddings; says what it decides.

    ``auto``: the first of device, memory and disk of which they take less than half of what is free, or nowhere.
    ``on_device`` are the free bytes of a device with a memory of its own.
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
        raise UserError(f"cache.image_embeddings: device needs {needed / 1e9:.1f} GB there; use memory, disk, or none")
    if place == "memory" and needed > memory:
        raise UserError(f"cache.image_embeddings: memory needs {needed / 1e9:.1f} GB of memory; use disk, or none")
    if place == "disk" and needed > disk:
        raise UserError(
            f"cache.image_embeddings: disk needs {needed / 1e9:.1f} GB in {folder}; use none, or another cache.dir"
        )
    return place
