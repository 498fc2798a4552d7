"""The explorer for an evaluation: a page for each of a few images, with ground truth and IoU, and an index of them."""

from __future__ import annotations

import html
import os
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np

from ..config.schema import DataloaderConfig
from ..data.dataset import SegmentationDataset, batches
from ..data.images import read_image, read_mask
from ..data.labels import Labelling
from ..evaluation.evaluate import Evaluation, Prediction, predictions_of
from ..evaluation.metrics import ConfusionMatrix
from ..evaluation.provenance import command_line
from ..files import write_bytes
from ..method.segmenter import Segmenter
from ..output import pictures
from ..output.colours import IGNORED
from ..output.evaluation_pictures import evenly_spaced, prediction_files
from ..runtime import rank
from ..screen import counted, progress
from .content import Truth, jpeg, page_content
from .page import fill, json_in_html, page

THUMBNAIL_SIDE = 320  # pixels
NEIGHBOURS = "\0links\0"
"""Placeholder for the links of a page until they are known; no file name can contain it."""


def write_evaluation_pages(
    csv: Path, segmenter: Segmenter, dataset: SegmentationDataset, count: int, evaluation: Evaluation
) -> list[Path]:
    """Write a page for each of ``count`` images, evenly spaced in the list as the overlays are, and an index.

    Pages replace those of an earlier evaluation with the same CSV. Skipped images get no page.

    Args:
        csv: the evaluation's CSV: the index is ``<its stem>_explorer.html``, pages are in ``<its stem>_explorer``.
        dataset: images and masks; its resolution is that of the IoU.

    Returns:
        Index and folder. Of several processes only the first writes; the others return an empty list.

    Raises:
        UserError: an image or mask cannot be read, or a page cannot be written.
    """
    if rank():
        return []
    index, folder = (csv.with_name(f"{csv.stem}_explorer{ending}") for ending in (".html", ""))
    skipped = {entry["image"] for entry in evaluation.skipped}
    chosen = evenly_spaced(dataset.indices, count)
    shown = dataset.only([number for number in chosen if str(dataset.entries[number].image) not in skipped])
    files = prediction_files([shown.entries[number] for number in shown.indices], folder) if len(shown) else {}
    addresses = [path.with_suffix(".html") for path in files.values()]
    cards, scores = [], []
    with progress(len(shown), "explorer") as bar:
        for place, batch in enumerate(batches(shown, DataloaderConfig(batch_size=1), segmenter.device)):
            path = addresses[place]
            embeds = segmenter.encode_images(batch.pixels)
            (prediction,) = predictions_of(batch, segmenter.segment(batch.pixels, embeds), shown)
            file = shown.entries[prediction.index].image
            rgb = read_image(file)
            labels = prediction.labels_at_own_size().cpu().numpy()
            truth = _truth(prediction, shown)
            name = path.relative_to(folder).with_suffix("").as_posix()
            content = page_content(segmenter, rgb, embeds, labels, name, truth, file)
            content["links"] = NEIGHBOURS  # known when all images have their IoU
            write_bytes(path, page(content, command_line()))
            scores.append(_mean(truth.iou))
            cards.append(_card(place, name, _link(index, path), rgb, labels, truth.iou, segmenter.prompts.class_names))
            bar.update()
    _link_neighbours(index, addresses, scores)
    score = 100 * evaluation.confusion.miou
    about = f"{len(shown)} of {counted(evaluation.images, 'image')}. mIoU of all: {score:.2f} %"
    write_bytes(index, fill("index", csv.stem, command_line(), about=about, cards="\n".join(cards)))
    return [index, folder]


def image_iou(prediction: Prediction, labelling: Labelling) -> list[float | None]:
    """IoU of every class number in one image; None for a class that is absent from both masks, or not scored."""
    confusion = ConfusionMatrix.of(labelling)
    confusion.update(prediction.labels.cpu(), prediction.target)
    unions = confusion.union.tolist()
    scored = [iou if union else None for iou, union in zip(confusion.iou.tolist(), unions, strict=True)]
    return scored if labelling.background else [None, *scored]


def _truth(prediction: Prediction, dataset: SegmentationDataset) -> Truth:
    entry = dataset.entries[prediction.index]
    assert entry.mask is not None
    labels = read_mask(entry.mask, dataset.labelling)
    labels[labels == dataset.labelling.ignore_label] = IGNORED
    iou = image_iou(prediction, dataset.labelling)
    return Truth(labels, dataset.frame.mask(labels, IGNORED), iou, dataset.resolution)


def _card(
    place: int, name: str, address: str, image: np.ndarray, labels: np.ndarray, iou: list[float | None], names: Any
) -> str:
    """One image in the index: overlay, name, IoU and its classes."""
    mean = _mean(iou)
    classes = ", ".join(names[label] for label, value in enumerate(iou) if label and value is not None)
    picture = jpeg(pictures.overlay(image, labels), THUMBNAIL_SIDE)
    return (
        f'<a class="image" href="{html.escape(address)}" data-place="{place}" data-iou="{mean:.6f}">'
        f'<img src="{picture}" alt="prediction for {html.escape(name)}">'
        f'<p><span class="name">{html.escape(name)}</span>'
        f'<b title="mean IoU of the classes in this image">{mean:.0%}</b></p>'
        f'<p class="quiet">{html.escape(classes)}</p></a>'
    )


def _mean(iou: list[float | None]) -> float:
    """IoU of an image: the mean over the classes in it."""
    known = [value for value in iou if value is not None]
    return round(sum(known) / max(len(known), 1), 6)  # digits of the index, which sorts by them


def _link_neighbours(index: Path, addresses: list[Path], scores: list[float]) -> None:
    """Complete the pages: the one before and the one after, in each order that the index offers."""
    places = range(len(addresses))
    orders = {
        "list": list(places),
        "worst": sorted(places, key=lambda place: scores[place]),
        "best": sorted(places, key=lambda place: -scores[place]),
    }
    for place, path in enumerate(addresses):
        neighbours = {}
        for name, order in orders.items():
            at = order.index(place)
            pair = (order[at - 1] if at else None, order[at + 1] if at + 1 < len(order) else None)
            neighbours[name] = [None if other is None else _link(path, addresses[other]) for other in pair]
        links = json_in_html({"index": _link(path, index), "orders": neighbours})
        write_bytes(path, path.read_bytes().replace(json_in_html(NEIGHBOURS).encode(), links.encode()))


def _link(origin: Path, target: Path) -> str:
    """Address of ``target`` in the page ``origin``."""
    return quote(os.fsencode(Path(os.path.relpath(target, origin.parent)).as_posix()))
