"""Evaluation over a data set: in the letterbox frame as published, or at every image's own size."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import cast

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from src.config.schema import Config, DataloaderConfig
from src.data.dataset import SegmentationDataset
from src.data.images import read_image, read_mask
from src.data.labels import Labelling
from src.data.lists import evaluation_entries
from src.errors import UserError
from src.evaluation.evaluate import Prediction, evaluate, predict
from src.evaluation.loop import Arrays
from src.method.blip import Blip, load_blip
from src.method.prompts import build_prompts, read_class_file
from src.method.segmenter import Segmenter
from tests import tiny
from tests.oracles.method import plain_iou, plain_letterbox


class ColourSegmenter:
    """Derives the class of every pixel from its colour, so every error is one of the evaluation."""

    device = torch.device("cpu")
    COLOURS = torch.tensor([[-1.0, -1.0, -1.0], [1.0, -1.0, -1.0], [-1.0, 1.0, -1.0], [-1.0, -1.0, 1.0]])

    def segment(self, pixels: Tensor, image_embeds: Tensor | None = None) -> Tensor:
        distance = (pixels[:, None] - self.COLOURS[None, :, :, None, None]).square().sum(2)
        return -distance

    def watch(self, images: Sequence[Path]) -> AbstractContextManager[None]:
        return nullcontext()

    def check_numbers(self) -> None:
        pass


class Shown:
    """Records the predictions that it should draw."""

    def __init__(self) -> None:
        self.predictions: list[Prediction] = []

    def keep(self, prediction: Prediction) -> dict[str, bytes]:
        self.predictions.append(prediction)
        return {}

    def must_draw(self, index: int, kept: Arrays) -> bool:
        return False


@pytest.fixture
def coloured(data_root: Path) -> None:
    """Paint the labels of every image in the colours of :class:`ColourSegmenter`."""
    colours = ((ColourSegmenter.COLOURS + 1) / 2 * 255).byte().numpy()
    for path in (data_root / "masks").iterdir():
        labels = read_mask(path, Labelling(4))
        pixels = colours[np.where(labels == 255, 0, labels)]
        Image.fromarray(pixels).save(data_root / "images" / f"{path.stem}.png")
    entries = (data_root / "val.txt").read_text()
    (data_root / "val.txt").write_text(entries.replace(".jpg", ".png"))


def setup(config: Config, blip: Blip) -> tuple[Segmenter, SegmentationDataset]:
    classes = read_class_file(Path(config.class_name_dir), config.dataset.num_classes)
    segmenter = Segmenter.from_config(config, blip, build_prompts(classes, False), config.model.layers)
    return segmenter, SegmentationDataset.from_config(evaluation_entries(config), config)


HALF = {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]}  # black to white is -1 to 1


@pytest.mark.usefixtures("coloured")
@pytest.mark.parametrize("resolution", ["letterbox", "original"])
def test_a_perfect_segmenter_scores_nearly_one(make_config: Callable[..., Config], resolution: str) -> None:
    """Only pixels mixed by resizing may be wrong; a frame that is off by a cell would cost far more."""
    config = make_config(dataset=HALF, eval={"resolution": resolution})
    dataset = SegmentationDataset.from_config(evaluation_entries(config), config)
    evaluation = evaluate(ColourSegmenter(), dataset, config.dataloader)
    assert evaluation.images == 3
    assert evaluation.confusion.iou.min() > 0.95
    counted = int(evaluation.confusion.counts.sum())
    if resolution == "original":
        masks = [read_mask(entry.mask, Labelling(4)) for entry in dataset.entries]
        assert counted == sum((mask != 255).sum() for mask in masks)
    else:
        assert counted < 3 * tiny.SIZE**2  # ignored borders and padding are left out


@pytest.mark.parametrize("batch", [1, 2, 3])
def test_letterbox_scores_equal_the_plain_count(make_config: Callable[..., Config], fused: Blip, batch: int) -> None:
    config = make_config(dataloader={"batch_size": batch})
    segmenter, dataset = setup(config, fused)
    pictures = Shown()
    evaluation = evaluate(segmenter, dataset, config.dataloader, pictures=pictures)
    shown = pictures.predictions
    assert [prediction.index for prediction in shown] == [0, 1, 2]
    targets, predictions = [], []
    for entry, prediction in zip(dataset.entries, shown, strict=True):
        with Image.open(entry.image) as image:
            pixels = np.asarray(image)
        targets.append(plain_letterbox(pixels, read_mask(entry.mask, Labelling(4)), tiny.SIZE)[1])
        predictions.append(prediction.scores.argmax(0).numpy())
        assert np.array_equal(prediction.labels, predictions[-1])
    got = zip(evaluation.confusion.intersection.tolist(), evaluation.confusion.union.tolist(), strict=True)
    assert list(got) == plain_iou(predictions, targets, 4)


def test_original_scores_are_of_the_untouched_mask(make_config: Callable[..., Config], fused: Blip) -> None:
    config = make_config(eval={"resolution": "original"}, dataloader={"batch_size": 2})
    segmenter, dataset = setup(config, fused)
    pictures = Shown()
    evaluation = evaluate(segmenter, dataset, config.dataloader, pictures=pictures)
    shown = pictures.predictions
    targets = [read_mask(entry.mask, Labelling(4)) for entry in dataset.entries]
    predictions = [prediction.frame.undo(prediction.scores, prediction.shape).argmax(0).numpy() for prediction in shown]
    for prediction, target, own in zip(shown, targets, predictions, strict=True):
        assert np.array_equal(prediction.target, target)
        assert np.array_equal(prediction.labels, own)
        assert np.array_equal(prediction.labels_at_own_size(), own)
    got = zip(evaluation.confusion.intersection.tolist(), evaluation.confusion.union.tolist(), strict=True)
    assert list(got) == plain_iou(predictions, targets, 4)


def test_labels_at_original_size_are_the_same_from_either_frame(
    make_config: Callable[..., Config], fused: Blip
) -> None:
    own = []
    for resolution in ("letterbox", "original"):
        config = make_config(eval={"resolution": resolution})
        own.append(
            [prediction.labels_at_own_size() for prediction in predict(*setup(config, fused), config.dataloader)]
        )
    assert [labels.shape for labels in own[0]] == [(90, 120), (120, 77), (80, 80)]
    assert all(torch.equal(one, other) for one, other in zip(*own, strict=True))


def test_an_image_segmented_alone_is_what_the_evaluation_scores(
    make_config: Callable[..., Config], fused: Blip
) -> None:
    config = make_config(eval={"resolution": "original"})
    segmenter, dataset = setup(config, fused)
    for entry, prediction in zip(dataset.entries, predict(segmenter, dataset, config.dataloader), strict=True):
        assert np.array_equal(segmenter.analyse_image(read_image(entry.image)).labels, prediction.labels)


def test_an_unreadable_image_ends_the_evaluation_and_is_named(
    make_config: Callable[..., Config], data_root: Path, fused: Blip
) -> None:
    config = make_config()
    (data_root / "images" / "1.jpg").write_bytes(b"")
    with pytest.raises(UserError, match=r"1\.jpg cannot be read"):
        evaluate(*setup(config, fused), config.dataloader)


def test_timing_counts_images(make_config: Callable[..., Config], fused: Blip) -> None:
    config = make_config()
    segmenter, dataset = setup(config, fused)
    values = evaluate(segmenter, dataset, config.dataloader).to_dict(segmenter.prompts.class_names)
    assert values["images"] == 3
    assert values["images_per_second"] == pytest.approx(3 / values["seconds"])


def test_the_running_score_is_shown(
    make_config: Callable[..., Config], fused: Blip, capsys: pytest.CaptureFixture[str]
) -> None:
    config = make_config()
    evaluation = evaluate(*setup(config, fused), config.dataloader)
    shown = capsys.readouterr().err
    assert "3/3" in shown
    assert f"mIoU={100 * evaluation.confusion.miou:.2f}" in shown


def test_scores_that_are_not_finite_end_the_evaluation(make_config: Callable[..., Config], model_folder: Path) -> None:
    """Otherwise every pixel would count as background."""
    config = make_config()
    blip = load_blip(str(model_folder), torch.device("cpu"))
    blip.model.itm_head.bias.fill_(torch.nan)
    segmenter, dataset = setup(config, blip)
    with pytest.raises(UserError, match=r"output for image .*0\.jpg is not a number; check the model's weights"):
        evaluate(segmenter, dataset, config.dataloader)


def test_the_scores_of_a_batch_are_freed_before_the_next_batch(make_config: Callable[..., Config], fused: Blip) -> None:
    """Those of 16 images of COCO take 1.3 GiB."""
    segmenter, dataset = setup(make_config(crf={"iters": 0}), fused)
    alive: list[weakref.ref[Tensor]] = []

    class Watched:
        device = segmenter.device
        watch = staticmethod(segmenter.watch)
        check_numbers = staticmethod(segmenter.check_numbers)

        def segment(self, pixels: Tensor) -> Tensor:
            assert not any(scores() is not None for scores in alive)
            scores = segmenter.segment(pixels)
            alive.append(weakref.ref(scores))
            return scores

    evaluate(cast(Segmenter, Watched()), dataset, DataloaderConfig(batch_size=2))
    assert len(alive) == 2


@pytest.mark.parametrize("batch_size", [1, 2, 3])
@pytest.mark.parametrize("number", [0, 1, 2])
def test_the_image_with_scores_that_are_not_finite_is_named(
    number: int,
    batch_size: int,
    make_config: Callable[..., Config],
    fused: Blip,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = make_config(dataloader={"batch_size": batch_size})
    segmenter, dataset = setup(config, fused)
    broken = dataset.entries[number].image

    broken_pixels = dataset[number].pixels
    encode = Segmenter.encode_images

    def encode_images(self: Segmenter, pixels: Tensor) -> Tensor:
        embeds = encode(self, pixels)
        for embed, image in zip(embeds, pixels, strict=True):
            if torch.equal(image, broken_pixels):
                embed[3, 5] = torch.nan
        return embeds

    monkeypatch.setattr(Segmenter, "encode_images", encode_images)
    with pytest.raises(UserError, match=rf"for image {broken} is not a number"):
        evaluate(segmenter, dataset, config.dataloader)
