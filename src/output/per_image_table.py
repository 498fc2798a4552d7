"""The table of single images beside a result: a row per image, written by an evaluation and read by a report."""

from __future__ import annotations

import csv
import hashlib
import io
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..config.schema import Config
from ..data.dataset import SegmentationDataset
from ..errors import UserError
from ..evaluation.evaluate import Evaluation
from ..evaluation.per_image import PerImageCounts
from ..files import read_regular, resolve, utf8
from ..result_files import csv_text, earlier_result_of, write_result
from .evaluation_pictures import EvaluationPictures
from .reading import Result

COLUMNS = ("image", "mask", "prediction", "prediction CRC-32", "mIoU")
"""The first columns. After them come IoU, intersection and union of each class."""
INTERSECTION, UNION = " intersection", " union"
KEY = "per_image"
"""Of a result's JSON: what it records of its table."""
MAX_BYTES = 1 << 28
AGAIN = "run training_free_blip.py again with --per-image"


def write_per_image(
    path: Path,
    evaluation: Evaluation,
    dataset: SegmentationDataset,
    names: Sequence[str],
    config: Config,
    pictures: EvaluationPictures,
) -> dict[str, Any]:
    """Write the table of an evaluation with ``per_image``; returns its entry in the result's JSON.

    Args:
        path: the file, beside the evaluation's CSV.
        names: C class names.
        config: paths of images and masks are written relative to its ``data_root``.
        pictures: the location of saved predictions.
    """
    counts = evaluation.per_image
    assert counts is not None
    root, folder = resolve(config.data_root), path.parent
    rows = []
    values = zip(counts.indices, counts.miou, counts.iou, counts.intersections, counts.unions, strict=True)
    for index, miou, iou, intersections, unions in values:
        entry, prediction = dataset.entries[index], pictures.prediction_of(index, evaluation.kept)
        file, checksum = ("", "") if prediction is None else (_below(folder, prediction[0]), prediction[1].hex())
        occurs = unions > 0
        rows.append(
            [
                _below(root, entry.image),
                _below(root, entry.mask),
                file,
                checksum,
                "" if np.isnan(miou) else float(miou),
                *(float(value) if there else "" for value, there in zip(iou, occurs, strict=True)),
                *(int(value) if there else "" for value, there in zip(intersections, occurs, strict=True)),
                *(int(value) if there else "" for value, there in zip(unions, occurs, strict=True)),
            ]
        )
    header = [*COLUMNS, *names, *(name + INTERSECTION for name in names), *(name + UNION for name in names)]
    write_result(path, text := csv_text(header, rows))
    how = "IoU of each image; mIoU over the classes in its mask or prediction; empty cells: class in neither"
    return {KEY: {"file": path.name, "sha256": _digest(utf8(text)), "content": how}}


def _below(folder: Path, path: Path | None) -> str:
    if path is None:
        return ""
    return path.relative_to(folder).as_posix() if path.is_relative_to(folder) else path.as_posix()


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@dataclass(frozen=True)
class PerImageTable:
    """A table read from a file.

    Attributes:
        names: C class names.
        images: N images; the second occurrence in the list is called ``a.jpg (2)``.
        files: N rows of the columns image, mask, prediction and CRC-32.
        counts: intersections and unions of the N images.
    """

    path: Path
    names: list[str]
    images: list[str]
    files: list[list[str]]
    counts: PerImageCounts


def read_per_image(result: Result) -> PerImageTable:
    """The table of single images of a result.

    Raises:
        UserError: the result has no table, or the table is missing or was changed.
    """
    record = result.values.get(KEY)
    if not isinstance(record, dict) or not all(isinstance(record.get(key), str) for key in ("file", "sha256")):
        raise UserError(f"{result.path} has no scores of single images; {AGAIN}")
    path = result.path.parent / Path(record["file"]).name
    found = [path, *(file for file in sorted(path.parent.glob("*.csv")) if earlier_result_of(file) == path)]
    for file in found:
        try:
            content = read_regular(file, MAX_BYTES)
        except OSError:
            continue
        if _digest(content) == record["sha256"]:
            return _read(file, content)
    problem = "was changed after" if os.path.lexists(path) else "is missing, which was written with"
    raise UserError(f"{path} {problem} {result.path.name}; {AGAIN}")


def _read(path: Path, content: bytes) -> PerImageTable:
    try:
        header, *rows = csv.reader(io.StringIO(content.decode(), newline=""))
        first = len(COLUMNS)
        classes = (len(header) - first) // 3
        names = header[first : first + classes]
        numbers = np.array([[int(cell or 0) for cell in row[first + classes :]] for row in rows], np.int64)
        numbers = numbers.reshape(len(rows), 2, classes)
        intersections, unions = numbers[:, 0], numbers[:, 1]
        if not rows or (intersections < 0).any() or (unions < intersections).any():
            raise ValueError("it has no rows, or an intersection that is no part of its union")
        images, files = list(_numbered(row[0] for row in rows)), [row[:4] for row in rows]
    except (ValueError, OverflowError, IndexError, csv.Error) as error:
        raise UserError(f"{path} is not a table of training_free_blip.py --per-image ({error}); {AGAIN}") from error
    return PerImageTable(path, names, images, files, PerImageCounts(range(len(rows)), intersections, unions))


def _numbered(names: Iterator[str]) -> Iterator[str]:
    seen: Counter[str] = Counter()
    for name in names:
        seen[name] += 1
        yield name if seen[name] == 1 else f"{name} ({seen[name]})"
