"""Scores of single images: equal to plain counts, sum up to the result, and independent of batches."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import training_free_blip
from src import cli
from src.config.schema import Config, DataloaderConfig
from src.data.dataset import SegmentationDataset
from src.data.images import read_mask
from src.data.labels import Labelling
from src.data.lists import evaluation_entries
from src.errors import UserError
from src.evaluation.evaluate import AREAS, IMAGES, MeanIoU, evaluate, predict
from src.method.blip import Blip
from src.method.prompts import build_prompts, read_class_file
from src.method.segmenter import Segmenter
from src.output.per_image_table import read_per_image
from src.output.reading import read_named
from tests.oracles.method import plain_iou

NAMES = ["background", "cat", "dog", "red mug"]


def run(config: Path, *arguments: object) -> int:
    common = ["--config", config, "--device", "cpu", "--per-image"]
    return cli.run(training_free_blip.main, [str(argument) for argument in (*common, *arguments)])


def table(folder: Path) -> list[dict[str, str]]:
    return list(csv.DictReader((folder / "iou_per_image.csv").read_text().splitlines()))


def read_back(folder: Path) -> Any:
    return read_per_image(read_named(folder / "iou.json"))


def setup(config: Config, blip: Blip) -> tuple[Segmenter, SegmentationDataset]:
    classes = read_class_file(Path(config.class_name_dir), config.dataset.num_classes)
    segmenter = Segmenter.from_config(config, blip, build_prompts(classes, False), config.model.layers)
    return segmenter, SegmentationDataset.from_config(evaluation_entries(config), config)


def test_each_row_is_the_plain_count_of_its_image(config_file: Callable[..., Path], data_root: Path) -> None:
    """At original size, saved predictions equal scored ones."""
    assert run(config_file(eval={"resolution": "original"}), "--save-predictions") == 0
    rows = table(data_root / "results")
    assert [row["image"] for row in rows] == ["images/0.jpg", "images/1.jpg", "images/2.jpg"]
    for row in rows:
        target = read_mask(data_root / row["mask"], Labelling(4))
        predicted = np.asarray(Image.open(data_root / "results" / row["prediction"]))
        ious = []
        for name, (intersection, union) in zip(NAMES, plain_iou([predicted], [target], 4), strict=True):
            if not union:
                assert row[name] == row[f"{name} intersection"] == row[f"{name} union"] == ""
                continue
            assert (int(row[f"{name} intersection"]), int(row[f"{name} union"])) == (intersection, union)
            assert float(row[name]) == intersection / union
            ious.append(intersection / union)
        assert float(row["mIoU"]) == pytest.approx(np.mean(ious))
    assert "" in {row[name] for row in rows for name in NAMES}  # a class that is absent from one of the images


def test_the_images_add_up_to_the_result(config_file: Callable[..., Path], data_root: Path) -> None:
    assert run(config_file(dataloader={"batch_size": 2})) == 0
    values = json.loads((data_root / "results" / "iou.json").read_text())
    counts = read_back(data_root / "results").counts
    assert counts.intersections.sum(0).tolist() == [entry["intersection"] for entry in values["classes"]]
    assert counts.unions.sum(0).tolist() == [entry["union"] for entry in values["classes"]]
    assert values["per_image"]["file"] == "iou_per_image.csv"


def test_nothing_is_written_without_the_option_and_no_other_file_changes(
    config_file: Callable[..., Path], data_root: Path, tmp_path: Path
) -> None:
    config = config_file()
    assert run(config) == 0
    plain = ["--config", str(config), "--device", "cpu", "--output-dir", str(tmp_path / "plain")]
    assert cli.run(training_free_blip.main, plain) == 0
    written = {path.name for path in (tmp_path / "plain").iterdir()}
    assert {path.name for path in (data_root / "results").iterdir()} - written == {"iou_per_image.csv"}
    assert (tmp_path / "plain" / "iou.csv").read_bytes() == (data_root / "results" / "iou.csv").read_bytes()
    assert "per_image" not in json.loads((tmp_path / "plain" / "iou.json").read_text())


def test_without_a_background_only_scored_classes_have_columns(
    config_file: Callable[..., Path], data_root: Path
) -> None:
    assert run(config_file(dataset={"background": False})) == 0
    values = json.loads((data_root / "results" / "iou.json").read_text())
    back = read_back(data_root / "results")
    assert back.names == NAMES[1:]
    assert back.counts.unions.sum(0).tolist() == [entry["union"] for entry in values["classes"]]


def test_an_image_without_a_scored_pixel_has_empty_cells(config_file: Callable[..., Path], data_root: Path) -> None:
    Image.fromarray(np.full((120, 77), 255, np.uint8)).save(data_root / "masks" / "1.png")
    assert run(config_file()) == 0
    assert {*table(data_root / "results")[1].values()} == {"images/1.jpg", "masks/1.png", ""}
    assert np.isnan(read_back(data_root / "results").counts.miou).tolist() == [False, True, False]


def test_batch_halving_and_order_do_not_change_the_table(make_config: Callable[..., Config], fused: Blip) -> None:
    segmenter, dataset = setup(make_config(), fused)
    whole = evaluate(segmenter, dataset, DataloaderConfig(batch_size=1), per_image=True).per_image
    evaluator = MeanIoU(segmenter, dataset, per_image=True)
    blocks = [
        {
            IMAGES: torch.tensor([index]),
            AREAS: torch.tensor(np.stack([one, other])[None]),
            "counts": torch.zeros(4, 4, dtype=torch.int64),
        }
        for index, one, other in zip(whole.indices, whole.intersections, whole.unions, strict=True)
    ]
    evaluator.add(1, blocks[2])
    evaluator.add(0, evaluator.merge(blocks[0], blocks[1]))
    again = evaluator._counts_of_images()
    assert again.indices == whole.indices == [0, 1, 2]
    assert np.array_equal(again.intersections, whole.intersections)
    assert np.array_equal(again.unions, whole.unions)


def test_scores_of_images_equal_those_of_the_explorer(make_config: Callable[..., Config], fused: Blip) -> None:
    from src.explorer.evaluation_pages import image_iou

    config = make_config()
    segmenter, dataset = setup(config, fused)
    counts = evaluate(segmenter, dataset, config.dataloader, per_image=True).per_image
    assert counts is not None
    for row, prediction in zip(counts.iou, predict(segmenter, dataset, config.dataloader), strict=True):
        expected = [np.nan if iou is None else iou for iou in image_iou(prediction, dataset.labelling)]
        assert np.array_equal(row, expected, equal_nan=True)


def test_a_kept_block_without_counts_of_images_is_computed_again(
    make_config: Callable[..., Config], fused: Blip
) -> None:
    segmenter, dataset = setup(make_config(), fused)
    kept = {"counts": torch.zeros(4, 4)}
    assert MeanIoU(segmenter, dataset).accepts([0], kept)
    assert not MeanIoU(segmenter, dataset, per_image=True).accepts([0], kept)


def test_an_earlier_table_is_kept_and_belongs_to_its_result(config_file: Callable[..., Path], data_root: Path) -> None:
    folder = data_root / "results"
    assert run(config_file(), "--set", "model.layers=[0]") == 0
    first = read_back(folder)
    assert run(config_file(), "--set", "model.layers=[1]") == 0
    (earlier,) = folder.glob("iou.2*.json")
    back = read_per_image(read_named(earlier))
    assert np.array_equal(back.counts.intersections, first.counts.intersections)
    assert back.path != read_back(folder).path


def test_a_result_without_its_table_is_refused(config_file: Callable[..., Path], data_root: Path) -> None:
    folder = data_root / "results"
    assert run(config_file()) == 0
    written = folder / "iou_per_image.csv"
    written.write_text(written.read_text().replace("images/0.jpg", "images/7.jpg"))
    with pytest.raises(UserError, match=r"iou_per_image\.csv was changed after iou\.json; run .* --per-image"):
        read_back(folder)
    written.unlink()
    with pytest.raises(UserError, match=r"iou_per_image\.csv is missing"):
        read_back(folder)
    assert cli.run(training_free_blip.main, ["--config", str(config_file()), "--device", "cpu", "--fresh"]) == 0
    with pytest.raises(UserError, match=r"iou\.json has no scores of single images"):
        read_back(folder)


def test_an_image_that_is_listed_twice_has_two_rows(config_file: Callable[..., Path], data_root: Path) -> None:
    with (data_root / "val.txt").open("a") as file:
        file.write("images/0.jpg masks/0.png\n")
    assert run(config_file()) == 0
    assert read_back(data_root / "results").images == [
        "images/0.jpg",
        "images/1.jpg",
        "images/2.jpg",
        "images/0.jpg (2)",
    ]
