"""The data set that feeds images and labels to the model."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import cv2
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from src.config.schema import Config, DataloaderConfig
from src.data.frame import Frame
from src.data.images import read_image, read_mask
from src.data.lists import ListEntry
from src.errors import UserError


@dataclass(frozen=True)
class Sample:
    """One image of a list.

    Attributes:
        index: its number in the list, from 0.
        pixels: float32 [3, S, S], normalised, in the frame.
        shape: (height, width) of the untouched image.
        labels: of its mask, uint8: [S, S] in the frame, or [height, width] untouched; None without masks.
    """

    index: int
    pixels: Tensor
    shape: tuple[int, int]
    labels: Tensor | None


@dataclass(frozen=True)
class Batch:
    """B samples; fields as in :class:`Sample`. Labels stay a list, because untouched masks differ in size.

    Attributes:
        indices: B numbers.
        pixels: [B, 3, S, S].
        shapes: B shapes.
        labels: B masks; none without masks.
    """

    indices: list[int]
    pixels: Tensor
    shapes: list[tuple[int, int]]
    labels: list[Tensor]

    @classmethod
    def of(cls, samples: Sequence[Sample]) -> Batch:
        """Stack ``samples``."""
        return cls(
            [sample.index for sample in samples],
            torch.stack([sample.pixels for sample in samples]),
            [sample.shape for sample in samples],
            [sample.labels for sample in samples if sample.labels is not None],
        )

    def __len__(self) -> int:
        return len(self.indices)

    def pin_memory(self) -> Batch:
        """In page-locked memory, from which copies to a GPU run in the background; ``DataLoader`` calls it."""
        labels = [mask.pin_memory() for mask in self.labels]
        return dataclasses.replace(self, pixels=self.pixels.pin_memory(), labels=labels)


class SegmentationDataset(Dataset[Sample]):
    """Images of a list in the frame, normalised, with their labels if the list has masks.

    Args:
        entries: the list.
        frame: what images are put into.
        num_classes: C; other labels in a mask are refused.
        ignore_label: the label that stands for no class.
        resolution: where labels are compared: masks are put into the frame (``letterbox``) or stay as they are
            (``original``).
        masks: whether masks are read.
        indices: which images of ``entries``, in this order; None: all.
    """

    def __init__(
        self,
        entries: Sequence[ListEntry],
        frame: Frame,
        num_classes: int,
        ignore_label: int = 255,
        resolution: Literal["letterbox", "original"] = "letterbox",
        masks: bool = True,
        indices: Sequence[int] | None = None,
    ) -> None:
        self.entries = entries
        self.frame = frame
        self.num_classes = num_classes
        self.ignore_label = ignore_label
        self.resolution = resolution
        self.masks = masks
        self.indices = range(len(entries)) if indices is None else indices

    @classmethod
    def from_config(
        cls, entries: Sequence[ListEntry], config: Config, masks: bool = True, indices: Sequence[int] | None = None
    ) -> SegmentationDataset:
        """``entries`` with the frame, the labels and the resolution of a configuration."""
        frame, labels = Frame.from_config(config), config.dataset
        return cls(entries, frame, labels.num_classes, labels.ignore_label, config.eval.resolution, masks, indices)

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, position: int) -> Sample:
        """Read image number ``indices[position]``.

        Raises:
            UserError: see :func:`read_image` and :func:`read_mask`; or image and mask differ in size.
        """
        index = self.indices[position]
        entry = self.entries[index]
        rgb = read_image(entry.image)
        shape = (rgb.shape[0], rgb.shape[1])
        return Sample(index, self.frame.image(rgb), shape, self._labels(entry, shape) if self.masks else None)

    def _labels(self, entry: ListEntry, shape: tuple[int, int]) -> Tensor:
        assert entry.mask is not None
        labels = read_mask(entry.mask, self.num_classes, self.ignore_label)
        if labels.shape != shape:
            raise UserError(
                f"mask {entry.mask} is {labels.shape[1]} x {labels.shape[0]} pixels, but image {entry.image} is "
                f"{shape[1]} x {shape[0]}; they must agree"
            )
        if self.resolution == "letterbox":
            labels = self.frame.mask(labels, self.ignore_label)
        return torch.from_numpy(labels)


def batches(dataset: SegmentationDataset, loader: DataloaderConfig, device: torch.device) -> Iterator[Batch]:
    """Iterate over ``dataset`` in order, in batches of ``loader.batch_size`` that worker processes read ahead.

    ``pixels`` arrive on ``device``.

    Raises:
        UserError: an image or mask could not be read.
    """
    read: DataLoader = DataLoader(
        _ErrorsAsValues(dataset),
        batch_size=loader.batch_size,
        num_workers=loader.num_workers,
        collate_fn=_collate,
        pin_memory=device.type == "cuda",
        worker_init_fn=_one_thread,
    )
    for batch in read:
        if isinstance(batch, UserError):
            raise batch
        yield dataclasses.replace(batch, pixels=batch.pixels.to(device, non_blocking=True))


class _ErrorsAsValues(Dataset):
    """Hands errors on as values: an exception that leaves a worker process gets a traceback into its text."""

    def __init__(self, dataset: SegmentationDataset) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, position: int) -> Sample | UserError:
        try:
            return self.dataset[position]
        except UserError as error:
            return UserError(str(error))  # without its causes, which need not survive the way


def _collate(samples: list[Sample | UserError]) -> Batch | UserError:
    errors = [sample for sample in samples if isinstance(sample, UserError)]
    return errors[0] if errors else Batch.of([sample for sample in samples if isinstance(sample, Sample)])


def _one_thread(_: int) -> None:
    # many workers with a thread pool each would fight over the same cores
    cv2.setNumThreads(0)
