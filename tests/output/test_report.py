"""The report: results side by side, each number where it belongs, and no other file taken for a result."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from src import cli, report
from src.errors import UserError
from src.output.report import column_titles, find_results, markdown, read_result

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


def test_report_sets_results_side_by_side(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
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
    found = [
        read_result(write(tmp_path / "a.json", training_free(0.5))),
        read_result(write(tmp_path / "b.json", other)),
    ]
    rows = cells(markdown(found, ["a", "b"]))
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


def test_a_folder_gives_its_results_without_earlier_ones_and_other_files(tmp_path: Path) -> None:
    write(tmp_path / "a.json", training_free(0.5))
    write(tmp_path / "a.20260101-120000.json", training_free(0.4))
    write(tmp_path / "a.20260101-120000-2.json", training_free(0.4))
    write(tmp_path / "one_shot_run0.json", {"run": 0, "miou": 0.5})
    (tmp_path / "broken.json").write_text("{")
    assert [path.name for path in find_results([tmp_path])] == ["a.json"]
    earlier = tmp_path / "a.20260101-120000.json"
    assert find_results([tmp_path, earlier, tmp_path / "a.json"]) == [tmp_path / "a.json", earlier]


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"experiment": "cooking"}', '"infoscore"'])
def test_a_file_that_is_no_result_is_refused_by_name(
    tmp_path: Path, content: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "other.json"
    path.write_text(content)
    assert cli.run(report.main, [str(path), "--output", str(tmp_path / "report.md")]) == 2
    assert f"{path} is no result" in capsys.readouterr().err
    assert not (tmp_path / "report.md").exists()


@pytest.mark.parametrize("missing", ["classes", "miou", "layers", "images"])
def test_an_incomplete_result_is_refused_by_name(tmp_path: Path, missing: str) -> None:
    values = training_free(0.5)
    del values[missing]
    with pytest.raises(UserError, match=r"other\.json is no complete result of training-free"):
        read_result(write(tmp_path / "other.json", values))


@pytest.mark.parametrize("name", ["nowhere.json", ""])
def test_a_path_without_results_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match=r"does not exist|holds no result"):
        find_results([tmp_path / name])


def test_equal_names_are_told_apart_by_their_folders() -> None:
    assert column_titles([Path("/r/x/a.json"), Path("/r/y/a.json")]) == ["x/a", "y/a"]
    assert column_titles([Path("/r/x/a.json"), Path("/r/x/b.json")]) == ["a", "b"]


def test_the_chart_does_not_overwrite_the_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = write(tmp_path / "a.json", training_free(0.5))
    assert cli.run(report.main, [str(result), "--output", str(tmp_path / "report.png")]) == 2
    assert "report.md" in capsys.readouterr().err
