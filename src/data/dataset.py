"""Read the images and labels of a list, in batches."""

from __future__ import annotations

import copy
import dataclasses
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import cv2
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate

from ..config.schema import Config, DataloaderConfig
from ..errors import UserError
from ..runtime import local_world_size
from ..screen import note_once
from .frame import Frame
from .images import read_image, read_mask
from .labels import Labelling
from .lists import ListEntry

SHARED_MEMORY = Path("/dev/shm")
BATCHES_AHEAD = 3  # per worker: two finished and one in progress


@dataclass(frozen=True)
class Sample:
    """One image of a list.

    Attributes:
        index: its index in the list.
        image: its file.
        pixels: float32 [3, S, S], normalised, in the frame.
        shape: (height, width) of the original image.
        labels: uint8, [S, S] in the frame or [height, width] at the original size; None without masks.
    """

    index: int
    image: Path
    pixels: Tensor
    shape: tuple[int, int]
    labels: Tensor | None


@dataclass(frozen=True)
class Batch:
    """B samples; fields as in :class:`Sample`. Labels are a list, because masks at the original size differ in shape.

    Attributes:
        images: B files.
        pixels: [B, 3, S, S].
        labels: labels of B masks; empty without masks.
        unreadable: index and reason of the images of this batch that cannot be read.
    """

    indices: list[int]
    images: list[Path]
    pixels: Tensor
    shapes: list[tuple[int, int]]
    labels: list[Tensor]
    unreadable: dict[int, str] = dataclasses.field(default_factory=dict)

    @classmethod
    def of(cls, samples: Sequence[Sample]) -> Batch:
        """Stack ``samples``."""
        return cls(
            [sample.index for sample in samples],
            [sample.image for sample in samples],
            # in a worker process, default_collate stacks into shared memory
            default_collate([sample.pixels for sample in samples]) if samples else torch.empty(0),
            [sample.shape for sample in samples],
            [sample.labels for sample in samples if sample.labels is not None],
        )

    def __getstate__(self) -> dict[str, Any]:
        """Send labels from a worker process as plain bytes: large masks would fill the shared memory."""
        return {**vars(self), "labels": [labels.numpy() for labels in self.labels]}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update({**state, "labels": [torch.from_numpy(labels) for labels in state["labels"]]})

    def __len__(self) -> int:
        return len(self.indices)

    def halves(self) -> tuple[Batch, Batch]:
        """The first half of the samples, with ``unreadable``, and the rest."""

        def part(place: slice) -> Batch:
            kept = {name: getattr(self, name)[place] for name in ("indices", "images", "pixels", "shapes", "labels")}
            return dataclasses.replace(self, **kept)

        half = len(self) // 2
        first, rest = part(slice(half)), part(slice(half, None))
        return first, dataclasses.replace(rest, unreadable={})

    def pin_memory(self) -> Batch:
        """The batch in page-locked memory, for asynchronous copies to a GPU; called by ``DataLoader``."""
        labels = [mask.pin_memory() for mask in self.labels]
        return dataclasses.replace(self, pixels=self.pixels.pin_memory(), labels=labels)


class SegmentationDataset(Dataset[Sample]):
    """Images of a list in the frame, normalised, with their labels if the list has masks.

    Args:
        labelling: the meaning of mask values; others are errors.
        resolution: ``letterbox`` puts masks into the frame, ``original`` keeps their size.
        masks: whether to read masks.
        indices: the images of ``entries`` to read, in this order; None: all.
    """

    def __init__(
        self,
        entries: Sequence[ListEntry],
        frame: Frame,
        labelling: Labelling,
        resolution: Literal["letterbox", "original"] = "letterbox",
        masks: bool = True,
        indices: Sequence[int] | None = None,
    ) -> None:
        self.entries = entries
        self.frame = frame
        self.labelling = labelling
        self.resolution = resolution
        self.masks = masks
        self.indices = range(len(entries)) if indices is None else indices

    @classmethod
    def from_config(
        cls, entries: Sequence[ListEntry], config: Config, masks: bool = True, indices: Sequence[int] | None = None
    ) -> SegmentationDataset:
        """A data set of ``entries`` with the frame, the labelling and the resolution of a configuration."""
        frame, labelling = Frame.from_config(config), Labelling.from_config(config.dataset)
        return cls(entries, frame, labelling, config.eval.resolution, masks, indices)

    def only(self, indices: Sequence[int]) -> SegmentationDataset:
        """This data set with the images ``indices`` only."""
        part = copy.copy(self)
        part.indices = indices
        return part

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, position: int) -> Sample:
        """Read image ``indices[position]``.

        Raises:
            UserError: see :func:`read_image` and :func:`read_mask`; or sizes differ. Names the line of the image list.
        """
        index = self.indices[position]
        entry = self.entries[index]
        try:
            return self._read(index, entry)
        except UserError as error:
            raise UserError(f"{error} (line {entry.line} of the image list)" if entry.line else str(error)) from error

    def _read(self, index: int, entry: ListEntry) -> Sample:
        rgb = read_image(entry.image)
        shape = (rgb.shape[0], rgb.shape[1])
        labels = self._labels(entry, shape) if self.masks else None
        return Sample(index, entry.image, self.frame.image(rgb), shape, labels)

    def _labels(self, entry: ListEntry, shape: tuple[int, int]) -> Tensor:
        assert entry.mask is not None
        labels = read_mask(entry.mask, self.labelling)
        if labels.shape != shape:
            raise UserError(
                f"mask {entry.mask} has {labels.shape[1]} x {labels.shape[0]} pixels, but image {entry.image} has "
                f"{shape[1]} x {shape[0]}; use a mask of the image's size"
            )
        if self.resolution == "letterbox":
            labels = self.frame.mask(labels, self.labelling.ignore_label)
        return torch.from_numpy(labels)


def batches(
    dataset: SegmentationDataset, loader: DataloaderConfig, device: torch.device, skip_unreadable: bool = False
) -> Iterator[Batch]:
    """Iterate over ``dataset`` in order, in batches of ``loader.batch_size``; worker processes read ahead.

    ``pixels`` are on ``device``. With ``skip_unreadable``, batches list unreadable images and may be empty.

    Raises:
        UserError: an image or mask cannot be read, without ``skip_unreadable``.
    """
    read: DataLoader = DataLoader(
        _ErrorsAsValues(dataset),
        batch_size=loader.batch_size,
        num_workers=_workers(dataset, loader),
        collate_fn=_collate,
        pin_memory=device.type == "cuda",
        worker_init_fn=_one_thread,
    )
    for batch in read:
        if batch.unreadable and not skip_unreadable:
            raise UserError(next(iter(batch.unreadable.values())))
        yield dataclasses.replace(batch, pixels=batch.pixels.to(device, non_blocking=True))


@dataclass(frozen=True)
class _Unreadable:
    index: int
    reason: str


class _ErrorsAsValues(Dataset):
    """Returns errors as values: ``DataLoader`` would add a traceback to the text of an exception from a worker."""

    def __init__(self, dataset: SegmentationDataset) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, position: int) -> Sample | _Unreadable:
        try:
            return self.dataset[position]
        except UserError as error:
            return _Unreadable(self.dataset.indices[position], str(error))


def _collate(samples: list[Sample | _Unreadable]) -> Batch:
    batch = Batch.of([sample for sample in samples if isinstance(sample, Sample)])
    unreadable = {sample.index: sample.reason for sample in samples if isinstance(sample, _Unreadable)}
    return dataclasses.replace(batch, unreadable=unreadable)


def _workers(dataset: SegmentationDataset, loader: DataloaderConfig) -> int:
    """``loader.num_workers``, or fewer if shared memory is small: a worker without shared memory would hang.

    The processes of a job on this machine share the memory equally.
    """
    if not loader.num_workers or not SHARED_MEMORY.is_dir():
        return loader.num_workers
    needed = BATCHES_AHEAD * loader.batch_size * 3 * 4 * dataset.frame.size**2  # per worker: float32 images
    free = shutil.disk_usage(SHARED_MEMORY).free // local_world_size()
    workers = min(loader.num_workers, free // needed)
    if workers < loader.num_workers:
        note_once(
            f"note: using {workers} instead of {loader.num_workers} worker processes (dataloader.num_workers): each "
            f"needs {needed / 1e6:.0f} MB of shared memory, and {SHARED_MEMORY} has {free / 1e6:.0f} MB free for this "
            "process (in Docker, use --shm-size=2g)"
        )
    return workers


def _one_thread(_: int) -> None:
    # the thread pools of many workers would compete for the same cores
    cv2.setNumThreads(0)
