"""Image lists, images, masks, and the data set that feeds them to the model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from src.config import Config, resolve
from src.errors import UserError
from src.letterbox import Letterbox

IMAGE_ENDINGS = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")
UNREADABLE = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)
"""What Pillow raises on files that are damaged or no pictures."""


@dataclass(frozen=True)
class ListEntry:
    """One line of an image list: absolute paths of an image and, where the list has masks, of its mask."""

    image: Path
    mask: Path | None


def read_list(path: Path, root: Path, masks: bool = True, limit: int | None = None) -> list[ListEntry]:
    """Read an image list: a line per image, ``image_path mask_path``, both relative to ``root``.

    Args:
        path: the list; with ``masks=False`` also a folder, of which every image is taken in name order.
        root: the data root.
        masks: whether a mask is required on every line; if not, lines may hold an image alone.
        limit: take only the first so many lines.

    Raises:
        UserError: the root or the list is missing, the list is empty, or a line is malformed (with its number).
    """
    if not masks and path.is_dir():
        entries = [ListEntry(image, None) for image in images_in(path)]
        if not entries:
            raise UserError(f"folder {path} holds no images ({', '.join(IMAGE_ENDINGS)})")
        return entries[:limit]
    if not root.is_dir():
        raise UserError(f"data_root {root} does not exist; README's section Data says how to lay it out")
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise UserError(
            f"image list {path} cannot be read ({error.strerror}); "
            "`python -m src.prepare --help` says how to make the lists"
        ) from None
    except UnicodeDecodeError:
        raise UserError(f"image list {path} is no UTF-8 text") from None
    entries = []
    for number, line in enumerate(lines, 1):
        fields = line.split()
        if not fields:
            continue
        if len(fields) > 2 or (masks and len(fields) < 2):
            expected = "image path, space, mask path" if masks else "image path, or image path, space, mask path"
            raise UserError(f"{path}, line {number}: expected {expected} (paths without spaces), got {line.strip()!r}")
        entries.append(ListEntry(root / fields[0], root / fields[1] if len(fields) == 2 else None))
        if len(entries) == limit:
            break
    if not entries:
        raise UserError(f"image list {path} is empty")
    return entries


def images_in(folder: Path) -> list[Path]:
    """Image files directly in ``folder``, by name."""
    return sorted(p for p in folder.iterdir() if p.suffix.lower() in IMAGE_ENDINGS and p.is_file())


def read_image(path: Path) -> np.ndarray:
    """Decode an image to RGB, uint8 [height, width, 3].

    Pixels come as they are stored: an EXIF orientation is not applied, because masks are drawn on stored pixels.

    Raises:
        UserError: missing, truncated or unreadable.
    """
    try:
        with Image.open(path) as image:
            return np.asarray(image.convert("RGB"))
    except FileNotFoundError:
        raise UserError(f"image {path} does not exist; check data_root and the image list") from None
    except UNREADABLE as error:
        raise UserError(f"image {path} cannot be read ({error}); it may be truncated: fetch it again") from error


def read_mask(path: Path, num_classes: int, ignore_label: int) -> np.ndarray:
    """Decode a mask to labels, uint8 [height, width]; a palette PNG gives its indices, a grey PNG its values.

    Raises:
        UserError: missing, unreadable, not a palette or grey image, or a label that is no class and not ignored.
    """
    try:
        with Image.open(path) as mask:
            mode, labels = mask.mode, np.asarray(mask)
    except FileNotFoundError:
        raise UserError(f"mask {path} does not exist; check data_root and the image list") from None
    except UNREADABLE as error:
        raise UserError(f"mask {path} cannot be read ({error}); it may be truncated: fetch it again") from error
    if mode not in ("P", "L", "1", "I", "I;16"):
        raise UserError(f"mask {path} is a {mode} image; expected a palette or grey PNG whose values are labels")
    present = np.unique(labels)
    wrong = [int(v) for v in present if not 0 <= v < num_classes and v != ignore_label]
    if wrong:
        raise UserError(
            f"mask {path} has label {wrong[0]}; expected 0 to {num_classes - 1} or {ignore_label} (ignored): "
            "does dataset.num_classes fit the masks?"
        )
    return labels.astype(np.uint8)


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


def preprocess(pixels: np.ndarray, letterbox: Letterbox, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """Letterbox and normalise RGB uint8 [h, w, 3] to float32 [3, S, S]: (x / 255 - mean) / std, padding included."""
    frame = letterbox.image(pixels.astype(np.float32))
    normalised = (frame / np.float32(255) - np.float32(mean)) / np.float32(std)
    return torch.from_numpy(normalised.transpose(2, 0, 1).copy())


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


def evaluation_entries(config: Config, masks: bool = True) -> list[ListEntry]:
    """The images that a configuration evaluates on (``val_list`` or ``oneshot.test_list``), cut to ``max_images``.

    Raises:
        UserError: the configuration names no such list, or see :func:`read_list`.
    """
    path = config.val_list or (config.oneshot and config.oneshot.test_list)
    if not path:
        raise UserError(f"{config.source}: key val_list is missing; expected the path of an image list")
    return read_list(resolve(path), resolve(config.data_root), masks, config.max_images)
