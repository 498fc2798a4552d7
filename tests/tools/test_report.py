"""The report: results side by side, each number in its place, and no other file mistaken for a result."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import re
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import training_free_blip
from src import cli
from src.data.images import read_image
from src.errors import UserError
from src.evaluation.per_image import PerImageCounts
from src.output import charts, pictures
from src.output.per_image_table import PerImageTable
from src.output.reading import Found, find_results, read_named
from src.output.report_tables import column_titles, report_markdown
from src.output.worst import worst_images
from tools import report

NAMES = ("background", "cat", "dog")


def write(path: Path, values: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(values), encoding="utf-8")
    return path


def classes(*iou: float) -> list[dict]:
    return [{"name": name, "iou": value} for name, value in zip(NAMES, iou, strict=True)]


def training_free(miou: float, multi_prompt: bool = False) -> dict:
    return {
        "experiment": "training-free",
        "multi_prompt": multi_prompt,
        "miou": miou,
        "classes": classes(0.75, 0.5, 0.25),
        "images": 12,
        "layers": [0, 3],
    }


def one_shot() -> dict:
    return {
        "experiment": "one-shot",
        "multi_prompt": False,
        "miou_mean": 0.6,
        "miou_std": 0.05,
        "classes": classes(0.8, 0.6, 0.4),
        "runs": [
            {"miou": 0.55, "images": 11, "classes": classes(0.8, 0.5, 0.35)},
            {"miou": 0.65, "images": 10, "classes": classes(0.8, 0.7, 0.45)},
        ],
        "layers": [0, 3],
    }


def infoscore() -> dict:
    rows = [{"layer": 0, "infoscore": 1.5, "rank": 2}, {"layer": 1, "infoscore": 2.5, "rank": 1}]
    return {"experiment": "infoscore", "images": 12, "layers": [1], "table": rows}


def cells(table: str) -> dict[str, list[str]]:
    """Rows of a Markdown table by their first cell."""
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines() if line]
    return {row[0]: row[1:] for row in rows}


def test_tuned_weights_are_named(tmp_path: Path) -> None:
    own = write(tmp_path / "x.json", {**training_free(0.5), "tuned": None})
    sha256 = "0123456789abcdef" * 4
    tuned = write(
        tmp_path / "x_tuned.json", {**training_free(0.5), "tuned": {"file": "results/run0.st", "sha256": sha256}}
    )
    other = write(tmp_path / "y_tuned.json", {**training_free(0.5), "tuned": {"file": "a/run0.st", "sha256": "f" * 64}})
    rows = cells(report_markdown(find_results([own, tuned, other])))
    assert rows["tuned"] == ["–", "run0.st (01234567)", "run0.st (ffffffff)"]
    assert not read_named(own).says_the_same_as(read_named(tuned))
    assert "tuned" not in cells(report_markdown(find_results([own])))


@pytest.mark.parametrize("tuned", ["run0.st", {"file": "run0.st"}, {"file": 3, "sha256": "f" * 64}])
def test_invalid_names_of_tuned_weights_are_refused(tuned: object, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"x\.json is no result"):
        read_named(write(tmp_path / "x.json", {**training_free(0.5), "tuned": tuned}))


def test_report_shows_results_side_by_side(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    single = write(tmp_path / "single.json", training_free(0.5))
    multi = write(tmp_path / "single_multi.json", training_free(0.525, multi_prompt=True))
    tuned = write(tmp_path / "tuned.json", one_shot())
    output = tmp_path / "out" / "report.md"
    arguments = [str(single), str(multi), str(tuned), "--output", str(output)]
    assert cli.run(report.main, arguments) == 0, capsys.readouterr().err
    rows = cells(output.read_text(encoding="utf-8"))
    assert rows["IoU in percent"] == ["single", "single_multi", "tuned"]
    assert rows["prompts"] == ["single", "multi", "single"]
    assert rows["images"] == ["12", "12", "10 to 11"]
    assert rows["runs"] == ["–", "–", "2"]
    assert rows["**mIoU**"] == ["50.00", "52.50", "60.00 ± 5.00"]
    assert rows["cat"] == ["50.00", "50.00", "60.00 ± 10.00"]
    assert rows["background"][2] == "80.00 ± 0.00"
    with Image.open(output.with_suffix(".png")) as chart:
        assert chart.width > 500


def test_classes_are_matched_by_name(tmp_path: Path) -> None:
    other = training_free(0.5)
    other["classes"] = [{"name": "dog", "iou": 0.1}, {"name": "cow", "iou": 0.2}]
    found = find_results([write(tmp_path / "a.json", training_free(0.5)), write(tmp_path / "b.json", other)])
    rows = cells(report_markdown(found))
    assert rows["dog"] == ["25.00", "10.00"]
    assert rows["cow"] == ["–", "20.00"]
    assert rows["cat"] == ["50.00", "–"]


def test_infoscore_has_a_table_of_its_own_and_no_chart(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ranking = write(tmp_path / "ranking.json", infoscore())
    output = tmp_path / "report.md"
    assert cli.run(report.main, [str(ranking), "--output", str(output)]) == 0, capsys.readouterr().err
    rows = cells(output.read_text(encoding="utf-8"))
    assert rows["0"] == ["1.500 (2)"]
    assert rows["1"] == ["2.500 (1)"]
    assert not output.with_suffix(".png").exists()


def test_a_report_without_a_file_ends_with_the_next_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ranking = write(tmp_path / "ranking.json", infoscore())
    assert cli.run(report.main, [str(ranking), "--output", str(tmp_path / "chart.png")]) == 0
    *_, why, last = capsys.readouterr().out.splitlines()
    assert why == "no evaluation among the results: no chart"
    assert last.startswith("next: python training_free_blip.py --config ")


def names_of(found: Found) -> list[str]:
    return [result.path.name for result in found.results]


def test_earlier_results_are_columns_unless_equal(tmp_path: Path) -> None:
    write(tmp_path / "a.json", training_free(0.5))
    write(tmp_path / "a.20260101-120000.json", training_free(0.4))
    write(tmp_path / "a.20260102-120000.json", {**training_free(0.5), "command": "another"})
    write(tmp_path / "a.20260103-120000-2.json", training_free(0.4))
    write(tmp_path / "b.20260101-120000.json", training_free(0.5))  # a name chosen by the user
    found = find_results([tmp_path])
    assert names_of(found) == ["a.20260101-120000.json", "a.json", "b.20260101-120000.json"]
    assert [(path.name, reason) for path, reason in found.left_out] == [
        ("a.20260102-120000.json", "says the same as a.json"),
        ("a.20260103-120000-2.json", "says the same as a.20260101-120000.json"),
    ]
    earlier = tmp_path / "a.20260102-120000.json"
    named = find_results([tmp_path, earlier, tmp_path / "a.json"])
    assert names_of(named) == [*names_of(found), earlier.name]
    assert len(named.left_out) == 1


def test_other_files_of_a_folder_are_named_with_the_reason(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path / "a.json", training_free(0.5))
    write(tmp_path / "one_shot_run0.json", {"run": 0, "miou": 0.5})
    write(tmp_path / "one_shot_run1.json", {"run": 1, "miou": 0.5})
    write(tmp_path / "percent.json", training_free(50.0))
    write(tmp_path / ".a.json", {})
    (tmp_path / "broken.json").write_text("{")
    (tmp_path / "binary.json").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "deep.json").write_text("[" * 100_000)
    (tmp_path / "folder.json").mkdir()
    assert cli.run(report.main, [str(tmp_path)]) == 0
    written = (tmp_path / "report.md").read_text(encoding="utf-8")
    for line in (
        "- one_shot_run0.json, one_shot_run1.json: it names no experiment",
        "- percent.json: miou is 50.0, expected a fraction of 1",
        "- binary.json: no UTF-8 text",
        "- folder.json: cannot be read (it is a folder; expected a regular file)",
    ):
        assert line in written.splitlines()
    assert "broken.json" in written
    assert "deep.json" in written
    assert ".a.json" not in written
    assert written in capsys.readouterr().out


def test_the_report_is_written_beside_the_results(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = write(tmp_path / "mine" / "a.json", training_free(0.5))
    other = write(tmp_path / "other" / "b.json", training_free(0.5))
    for arguments in ([result, other], [result.parent, other]):
        assert cli.run(report.main, list(map(str, arguments))) == 0
        for name in ("report.md", "report.png"):
            (tmp_path / "mine" / name).unlink()
    assert [path.name for path in other.parent.iterdir()] == ["b.json"]


def test_a_byte_order_mark_in_a_result_is_skipped(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text(json.dumps(training_free(0.5)), encoding="utf-8-sig")
    assert read_named(path).miou is not None


def test_differing_settings_are_shown(tmp_path: Path) -> None:
    paths = [
        write(tmp_path / f"{n}.json", {**training_free(0.5), "config": {"crf": {"iters": n}, "data_set": "pascal"}})
        for n in (0, 20)
    ]
    old = write(tmp_path / "old.json", training_free(0.4))
    rows = cells(report_markdown(find_results([*paths, old])))
    assert rows["crf.iters"] == ["0", "20", "–"]
    assert "data_set" in rows
    assert "data_set" not in cells(report_markdown(find_results(paths)))


def test_absent_classes_give_a_row_of_their_own(tmp_path: Path) -> None:
    lacking = {"absent_classes": ["dog"], "miou_present": 0.625}
    lacking_runs = {"absent_classes": ["dog"], "miou_present_mean": 0.7, "miou_present_std": 0.1}
    paths = [
        write(tmp_path / "whole.json", training_free(0.5)),
        write(tmp_path / "lacking.json", {**training_free(0.5), **lacking}),
        write(tmp_path / "runs.json", {**one_shot(), **lacking_runs}),
    ]
    rows = cells(report_markdown(find_results(paths)))
    assert rows["mIoU of the classes present"] == ["50.00", "62.50", "70.00 ± 10.00"]
    assert "mIoU of the classes present" not in cells(report_markdown(find_results(paths[:1])))


def test_a_class_may_have_any_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = ("mIoU", "a|b", "$\\frac$", "two\nlines", "_under", "\x1b[31mred", "half \ud83d")
    values = training_free(0.5)
    values["classes"] = [{"name": name, "iou": 0.25} for name in names]
    path = write(tmp_path / "_$x$.json", values)
    assert cli.run(report.main, [str(path)]) == 0, capsys.readouterr().err
    table = (tmp_path / "report.md").read_text(encoding="utf-8")
    rows = cells(table.replace("\\|", "/"))
    assert rows["**mIoU**"] == ["50.00"]
    shown = ("mIoU", "a/b", "$\\frac$", "two lines", "_under", "\ufffd[31mred", "half \ufffd")
    assert [rows[name] for name in shown] == [["25.00"]] * len(shown)
    assert (tmp_path / "report.png").is_file()


def test_chart_labels_are_literal(tmp_path: Path) -> None:
    names = ["$\\frac$", "$"]
    charts.iou_bars(tmp_path / "iou.png", names, [0.5, 0.25], title="$\\sum")
    charts.confusion_matrix(tmp_path / "confusion.png", names, [[1, 0], [0, 1]], title="$\\sum$")
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"experiment": "cooking"}', '"infoscore"'])
def test_a_file_that_is_not_a_result_is_refused_by_name(
    tmp_path: Path, content: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "other.json"
    path.write_text(content)
    assert cli.run(report.main, [str(path), "--output", str(tmp_path / "report.md")]) == 2
    assert f"{path} is no result" in capsys.readouterr().err
    assert not (tmp_path / "report.md").exists()


@pytest.mark.parametrize(
    ("make", "change", "reason"),
    [
        (training_free, lambda v: v.pop("classes"), "classes is missing"),
        (training_free, lambda v: v.pop("miou"), "miou is missing"),
        (training_free, lambda v: v.pop("layers"), "layers is missing"),
        (training_free, lambda v: v.pop("images"), "images is missing"),
        (training_free, lambda v: v.update(miou=None), "miou is null, expected a number"),
        (training_free, lambda v: v.update(miou=float("nan")), "miou is NaN, expected a number"),
        (training_free, lambda v: v.update(miou=10**400), "miou is 1000"),
        (training_free, lambda v: v.update(miou=57.3), r"miou is 57\.3, expected a fraction of 1"),
        (training_free, lambda v: v.update(images="12"), 'images is "12", expected a whole number'),
        (training_free, lambda v: v.update(layers="03"), 'layers is "03", expected a list'),
        (training_free, lambda v: v.update(classes=[1]), "name is looked for in 1"),
        (training_free, lambda v: v["classes"].append(v["classes"][1]), 'class "cat" is given twice'),
        (training_free, lambda v: v["classes"][1].update(iou="high"), 'iou of class "cat" is "high"'),
        (training_free, lambda v: v.update(experiment=["cooking"]), r'its experiment is \["cooking"\]'),
        (one_shot, lambda v: v.update(runs=[]), "it has no runs"),
        (one_shot, lambda v: v["runs"][1].pop("images"), "images is missing"),
        (one_shot, lambda v: v["runs"][1]["classes"].pop(), 'a run has no class "dog"'),
        (infoscore, lambda v: v.update(table=[]), "its table is empty"),
        (infoscore, lambda v: v["table"][1].update(infoscore=None), "infoscore of layer 1 is null"),
        (infoscore, lambda v: v["table"][1].update(layer=0), "layer 0 is given twice"),
    ],
)
def test_an_invalid_result_is_refused_with_its_name_and_the_reason(
    tmp_path: Path, make: Callable[..., dict], change: Callable[[dict], object], reason: str
) -> None:
    values = make(0.5) if make is training_free else make()
    change(values)
    with pytest.raises(UserError, match=rf"other\.json is no result: {reason}"):
        find_results([write(tmp_path / "other.json", values)])


@pytest.mark.parametrize("name", ["nowhere.json", ""])
def test_a_path_without_results_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match=r"does not exist|contains no result"):
        find_results([tmp_path / name])


def test_equal_names_are_distinguished_by_their_folders() -> None:
    assert column_titles([Path("/r/x/a.json"), Path("/r/y/a.json")]) == ["x/a", "y/a"]
    assert column_titles([Path("/r/x/a.json"), Path("/r/x/b.json")]) == ["a", "b"]


def test_the_suffix_is_the_format(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = write(tmp_path / "a.json", training_free(0.5))
    for ending in ("png", "pdf", "svg"):
        assert cli.run(report.main, [str(result), "--output", str(tmp_path / ending / f"figure.{ending}")]) == 0
        assert [path.name for path in (tmp_path / ending).iterdir()] == [f"figure.{ending}"]
    for ending, start in (("md", "| IoU"), ("tex", "% needs"), ("csv", "file,")):
        output = tmp_path / ending / f"table.{ending}"
        assert cli.run(report.main, [str(result), "--output", str(output)]) == 0
        assert output.read_text(encoding="utf-8").startswith(start)
        assert {path.name for path in output.parent.iterdir()} == {output.name, "table.png"}
    assert (tmp_path / "pdf" / "figure.pdf").read_bytes().startswith(b"%PDF")
    assert b"<svg" in (tmp_path / "svg" / "figure.svg").read_bytes()
    assert cli.run(report.main, [str(result), "--output", str(tmp_path / "report.html")]) == 2
    assert "report.html: expected a name that ends in .md, .tex, .csv, .png, .pdf, .svg" in capsys.readouterr().err


def test_a_table_for_latex(tmp_path: Path) -> None:
    values = training_free(0.5)
    values["classes"][1]["name"] = r"50% cat_& \dog"
    paths = [write(tmp_path / "a_1.json", values), write(tmp_path / "b.json", one_shot())]
    assert cli.run(report.main, [*map(str, paths), "--latex"]) == 0
    text = (tmp_path / "report.tex").read_text(encoding="utf-8")
    assert r"IoU in percent & a\_1 & b \\" in text
    assert r"\textbf{mIoU} & \textbf{50.00} & \textbf{60.00 $\pm$ 5.00} \\" in text
    assert r"50\% cat\_\& \textbackslash{}dog & 50.00 & -- \\" in text
    assert text.count(r"\begin{tabular}{lrr}") == text.count(r"\toprule") == text.count(r"\bottomrule") == 1
    assert all(line.count("&") == 2 for line in text.splitlines() if line.endswith(r"\\") and "cat" not in line)


def test_a_row_per_result(tmp_path: Path) -> None:
    paths = [
        write(tmp_path / "a.json", training_free(0.5)),
        write(tmp_path / "b.json", one_shot()),
        write(tmp_path / "c.json", infoscore()),
    ]
    assert cli.run(report.main, [*map(str, paths), "--csv"]) == 0
    with open(tmp_path / "report.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [Path(row["file"]).name for row in rows] == ["a.json", "b.json", "c.json"]
    assert [row["mIoU"] for row in rows] == ["0.5", "0.6", ""]
    assert rows[0]["mIoU std"] == ""
    assert float(rows[1]["mIoU std"]) == pytest.approx(0.05)
    assert [row["cat"] for row in rows] == ["0.5", "0.6", ""]
    assert [row["InfoScore of layer 1"] for row in rows] == ["", "", "2.5"]


# single images


@pytest.fixture
def two_results(config_file: Callable[..., Path], tmp_path: Path) -> tuple[Path, Path]:
    """The tiny model with one layer and with another, with scores of single images and predictions."""
    results = []
    for layer in (0, 2):
        output = tmp_path / f"layer{layer}"
        options = ["--per-image", "--save-predictions", "--output-dir", str(output), "--set", f"model.layers=[{layer}]"]
        assert cli.run(training_free_blip.main, ["--config", str(config_file()), "--device", "cpu", *options]) == 0
        results.append(output / "iou.json")
    return results[0], results[1]


@pytest.mark.parametrize("ending", [".md", ".tex", ".csv", ".svg"])
def test_compare_chooses_the_format_by_the_suffix(
    ending: str, two_results: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out" / f"compared{ending}"
    arguments = ["--compare", *map(str, two_results), "--output", str(output), "--resamples", "50", "--seed", "4"]
    assert cli.run(report.main, arguments) == 0, capsys.readouterr().err
    written = {path.name for path in output.parent.iterdir()}
    assert written == ({output.name} if ending == ".svg" else {output.name, "compared.png"})
    chart = output if ending == ".svg" else output.with_suffix(".png")
    assert capsys.readouterr().out.splitlines()[-1] == f"next: open {chart}"
    text = output.read_text()
    first, second = (json.loads(path.read_text())["classes"][1]["iou"] for path in two_results)
    if ending == ".md":
        row = cells(text)["cat"]
        assert row[:3] == [f"{100 * first:.2f}", f"{100 * second:.2f}", f"{100 * (second - first):+.2f}"]
        assert "Paired bootstrap over 3 images: 50 resamples, seed 4." in text
        assert cells(text)["layers"][:2] == ["0", "2"]
    if ending == ".tex":
        assert r"\textbf{mIoU}" in text
        assert text.startswith("% needs \\usepackage{booktabs}\n% Paired bootstrap over 3 images")
    if ending == ".csv":
        rows = {row["name"]: row for row in csv.DictReader(text.splitlines())}
        assert float(rows["cat"]["difference"]) == pytest.approx(second - first)
        assert float(rows["mIoU"]["low"]) <= float(rows["mIoU"]["mean"]) <= float(rows["mIoU"]["high"])
        assert rows["dog"]["resamples"] == "50"


def test_compare_needs_two_results_with_scores_of_images(
    two_results: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = write(tmp_path / "plain.json", training_free(0.5))
    for results, reason in (
        ([two_results[0]], "--compare takes two results, got 1"),
        ([two_results[0], plain], f"{plain} has no scores of single images; run training_free_blip.py again with"),
        ([two_results[0], tmp_path / "nothing.json"], "nothing.json is no result"),
    ):
        assert cli.run(report.main, ["--compare", *map(str, results)]) == 2
        assert reason in capsys.readouterr().err
    assert not list(tmp_path.rglob("comparison*"))


def test_an_earlier_comparison_is_kept(two_results: tuple[Path, Path]) -> None:
    for seed in ("0", "1"):
        arguments = ["--compare", *map(str, two_results), "--resamples", "20", "--seed", seed]
        assert cli.run(report.main, arguments) == 0
    assert len(list(two_results[0].parent.glob("comparison*.md"))) == 2


def test_worst_draws_the_images_of_lowest_iou(
    two_results: tuple[Path, Path], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[tuple[tuple, dict]] = []
    grid = pictures.grid
    monkeypatch.setattr(pictures, "grid", lambda *args, **named: drawn.append((args, named)) or grid(*args, **named))
    result = two_results[0]
    assert cli.run(report.main, [str(result), "--worst", "2"]) == 0, capsys.readouterr().err
    sheet_file = result.with_name("iou_worst.png")
    assert capsys.readouterr().out.splitlines()[-1] == f"next: open {sheet_file}"
    rows = list(csv.DictReader((result.parent / "iou_per_image.csv").read_text().splitlines()))
    worst = sorted(rows, key=lambda row: float(row["mIoU"]))[:2]
    ((shown, titles, _), named), *_ = drawn
    assert titles == ("image", "prediction", "ground truth")
    assert named["captions"] == [f"IoU {100 * float(row['mIoU']):.1f} %  {row['image']}" for row in worst]
    root = Path(json.loads(result.read_text())["config"]["data_root"])
    for row, (image, prediction, truth) in zip(worst, shown, strict=True):
        assert np.array_equal(image, read_image(root / row["image"]))
        labels = np.asarray(Image.open(result.parent / row["prediction"]))
        assert np.array_equal(prediction, pictures.overlay(image, labels))
        assert np.array_equal(truth, pictures.overlay(image, np.asarray(Image.open(root / row["mask"]))))
    with Image.open(sheet_file) as sheet:
        assert sheet.width > 800


def test_worst_never_shows_predictions_of_another_run(
    two_results: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    result = two_results[0]
    for path in (result.parent / "iou_predictions").iterdir():
        path.write_bytes((two_results[1].parent / "iou_predictions" / path.name).read_bytes())
    assert cli.run(report.main, [str(result), "--worst", "1"]) == 2
    assert "was replaced by a later run" in capsys.readouterr().err
    assert not result.with_name("iou_worst.png").exists()


def test_worst_needs_predictions(
    config_file: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--device", "cpu", "--per-image", "--output-dir", str(tmp_path / "out")]
    assert cli.run(training_free_blip.main, ["--config", str(config_file()), *options]) == 0
    assert cli.run(report.main, [str(tmp_path / "out" / "iou.json"), "--worst", "1"]) == 2
    assert "run training_free_blip.py again with --per-image --save-predictions" in capsys.readouterr().err


def test_images_without_a_score_are_not_the_worst(tmp_path: Path) -> None:
    counts = PerImageCounts(range(4), np.array([[1], [0], [1], [1]]), np.array([[2], [0], [2], [8]]))
    table = PerImageTable(tmp_path, ["cat"], ["a", "b", "c", "d"], [], counts)
    assert worst_images(table, 10) == [3, 0, 2]
    assert worst_images(table, 2) == [3, 0]


# edited results and tables


def test_a_result_with_an_edited_score_is_refused(two_results: tuple[Path, Path]) -> None:
    """A score that contradicts the counts of its file would enter a table unnoticed."""
    path = two_results[0]
    values = json.loads(path.read_text())
    first, *others = values["classes"]
    for edited, reason in (
        ({"miou": 0.999}, r"miou is 0\.999, but its counts give 0\.\d+: the file was edited"),
        ({"classes": [{**first, "iou": 0.9}, *others]}, "iou of class .*background.* is 0.9"),
        ({"classes": [{**first, "union": -1}, *others]}, "union is -1, expected a whole"),
    ):
        with pytest.raises(UserError, match=reason):
            read_named(write(path.with_name("edited.json"), {**values, **edited}))


def test_a_circular_link_gives_a_one_line_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.json").symlink_to("b.json")
    (tmp_path / "b.json").symlink_to("a.json")
    for options in ([], ["--worst", "1"]):
        assert cli.run(report.main, [str(tmp_path / "a.json"), *options]) == 2
        assert f"error: {tmp_path / 'a.json'} is no result: cannot be read" in capsys.readouterr().err


def redo(result: Path, table: str) -> None:
    """Write another table of single images beside a result, as if it had always been there."""
    result.with_name("iou_per_image.csv").write_text(table, newline="")
    record = {"file": "iou_per_image.csv", "sha256": hashlib.sha256(table.encode()).hexdigest()}
    write(result, {**json.loads(result.read_text()), "per_image": record})


@pytest.mark.parametrize(
    "change",
    [
        lambda table: "",
        lambda table: table.splitlines()[0] + "\n",
        lambda table: table.replace("images/1.jpg", "images/1.jpg,"),
        lambda table: re.sub(r"[^,]*\n$", "many\n", table),
        lambda table: re.sub(r"[^,]*\n$", "-5\n", table),
        lambda table: re.sub(r"[^,]*\n$", f"{10**30}\n", table),
        lambda table: table.replace("images/1.jpg", '"' + "x" * 200_000 + '"'),
    ],
)
def test_a_malformed_table_gives_a_one_line_error(
    change: Callable[[str], str], two_results: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    redo(two_results[1], change(two_results[1].with_name("iou_per_image.csv").read_text()))
    for arguments in (["--compare", *map(str, two_results)], ["--worst", "2", str(two_results[1])]):
        assert cli.run(report.main, arguments) == 2
        shown = capsys.readouterr().err
        assert "iou_per_image.csv is not a table of training_free_blip.py --per-image" in shown
        assert len(shown.splitlines()) == 1


def test_a_table_without_a_name_is_missing(two_results: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("", "..", "/"):
        values = json.loads(two_results[0].read_text())
        write(two_results[0], {**values, "per_image": {**values["per_image"], "file": name}})
        assert cli.run(report.main, ["--worst", "2", str(two_results[0])]) == 2
        assert "run training_free_blip.py again with --per-image" in capsys.readouterr().err


def replace_prediction(result: Path, content: bytes) -> Path:
    """Put ``content`` in place of the first prediction, and its checksum into the table."""
    table = result.with_name("iou_per_image.csv").read_text()
    row = next(csv.DictReader(table.splitlines()))
    prediction = result.parent / row["prediction"]
    prediction.write_bytes(content)
    redo(result, table.replace(row["prediction CRC-32"], zlib.crc32(content).to_bytes(4, "little").hex()))
    return prediction


def label_map(value: int, size: tuple[int, int] = (120, 90)) -> bytes:
    buffer = io.BytesIO()
    picture = Image.new("P", size, value)
    picture.putpalette([each for each in range(256) for _ in range(3)])
    picture.save(buffer, "PNG")
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "cannot be read (unsupported format)"),
        (b"", "cannot be read (the file is empty)"),
        (label_map(200), "is not a label map of 4 classes"),
        (label_map(1, (7, 9)), "has 120 x 90 pixels, but its prediction has 7 x 9; segment the image again"),
    ],
)
def test_files_that_are_not_label_maps_give_a_one_line_error(
    content: bytes, reason: str, two_results: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    """PostScript would start Ghostscript."""
    replace_prediction(two_results[0], content)
    assert cli.run(report.main, ["--worst", "3", str(two_results[0])]) == 2
    shown = capsys.readouterr().err
    assert reason in shown
    assert len(shown.splitlines()) == 1


def test_the_number_of_resamples_is_limited_by_memory() -> None:
    with pytest.raises(SystemExit):
        cli.run(report.main, ["--compare", "a.json", "b.json", "--resamples", str(10**12)])
