"""The data set that feeds images and labels to the model."""

from __future__ import annotations

from typing import Any

import cv2
import torch
from torch.utils.data import DataLoader, Dataset

from src.config.schema import Config
from src.data.frame import Letterbox, preprocess
from src.data.images import read_image, read_mask
from src.data.lists import ListEntry
from src.errors import UserError


class SegmentationDataset(Dataset):
    """Images of a list in the letterbox frame, normalised, with their labels if the list has masks.

    Items are dictionaries: ``index`` int, ``pixels`` float32 [3, S, S], ``labels`` uint8 (letterboxed [S, S], or with
    ``original_labels`` untouched [h, w]) and ``height``, ``width`` of the untouched image. A :class:`UserError` while
    reading is handed on as ``error``, so that it keeps its text on its way out of a worker process.
    """

    def __init__(
        self,
        entries: list[ListEntry],
        config: Config,
        original_labels: bool = False,
        masks: bool = True,
        indices: list[int] | None = None,
    ) -> None:
        self.entries = entries
        self.indices = list(range(len(entries))) if indices is None else indices
        self.image_size = config.model.image_size
        self.dataset = config.dataset
        self.masks = masks
        self.original_labels = original_labels

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, position: int) -> dict[str, Any]:
        index = self.indices[position]
        try:
            return {"index": index, **self.read(self.entries[index])}
        except UserError as error:
            return {"index": index, "error": str(error)}

    def read(self, entry: ListEntry) -> dict[str, Any]:
        """Read and letterbox one entry.

        Raises:
            UserError: see :func:`read_image` and :func:`read_mask`; or image and mask differ in size.
        """
        pixels = read_image(entry.image)
        item: dict[str, Any] = {"height": pixels.shape[0], "width": pixels.shape[1]}
        letterbox = Letterbox(*pixels.shape[:2], self.image_size)
        item["pixels"] = preprocess(pixels, letterbox, self.dataset.mean, self.dataset.std)
        if self.masks:
            assert entry.mask is not None
            labels = read_mask(entry.mask, self.dataset.num_classes, self.dataset.ignore_label)
            if labels.shape != pixels.shape[:2]:
                raise UserError(
                    f"mask {entry.mask} is {labels.shape[1]} x {labels.shape[0]} pixels, but image {entry.image} is "
                    f"{pixels.shape[1]} x {pixels.shape[0]}; they must agree"
                )
            if not self.original_labels:
                labels = letterbox.label(labels, self.dataset.ignore_label)
            item["labels"] = torch.from_numpy(labels)
        return item


def collate(items: list[dict[str, Any]]) -> dict[str, Any]:
    """Stack items to a batch; untouched labels of different sizes stay a list.

    Returns ``index``, ``height``, ``width`` as lists, ``pixels`` [B, 3, S, S], ``labels`` as a list of tensors, or
    ``error`` alone.
    """
    errors = [item["error"] for item in items if "error" in item]
    if errors:
        return {"error": errors[0]}
    batch = {key: [item[key] for item in items] for key in items[0]}
    batch["pixels"] = torch.stack(batch["pixels"])
    return batch


def batches(dataset: SegmentationDataset, config: Config, device: torch.device) -> Any:
    """Iterate over ``dataset`` in order, in batches read ahead by ``dataloader.num_workers`` processes.

    ``pixels`` arrive on ``device``.

    Raises:
        UserError: an image or mask could not be read.
    """
    loader = DataLoader(
        dataset,
        batch_size=config.dataloader.batch_size,
        num_workers=config.dataloader.num_workers,
        collate_fn=collate,
        pin_memory=device.type == "cuda",
        worker_init_fn=_one_thread,
    )
    for batch in loader:
        if "error" in batch:
            raise UserError(batch["error"])
        batch["pixels"] = batch["pixels"].to(device, non_blocking=True)
        yield batch


def _one_thread(_: int) -> None:
    # many workers with a thread pool each would fight over the same cores
    cv2.setNumThreads(0)
