"""Reading and checking result files, and finding those of a folder."""

from __future__ import annotations

import json
import math
import os
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..files import read_regular, real_path
from ..result_files import earlier_result_of

MAX_BYTES = 1 << 28  # of a result
COUNTS = ("intersection", "union")
EXPERIMENTS = ("training-free", "one-shot", "infoscore")


class NoResultError(ValueError):
    """A file is not a result of an experiment; the message gives the reason."""


@dataclass(frozen=True)
class Score:
    """A score as a fraction; ``std`` over the runs of one-shot tuning, else None."""

    mean: float
    std: float | None = None

    def __str__(self) -> str:
        """In percent."""
        return f"{100 * self.mean:.2f}" + ("" if self.std is None else f" ± {100 * self.std:.2f}")


@dataclass(frozen=True)
class Rank:
    """InfoScore of a layer and its place among the layers, 1 for the best."""

    infoscore: float
    rank: int

    def __str__(self) -> str:
        return f"{self.infoscore:.3f} ({self.rank})"


@dataclass(frozen=True)
class Result:
    """The content of one result file.

    Attributes:
        values: the whole content of the file.
        facts: distinguish this result from others: experiment, prompts, layers, tuned weights, images, runs.
        settings: its configuration, as written by the experiment.
        miou: None for a ranking.
        miou_present: over the classes in the masks, if some are absent; else None.
        classes: by class name, in label order; empty for a ranking.
        ranking: by layer; empty for an evaluation.
    """

    path: Path
    values: dict[str, Any]
    facts: dict[str, str]
    settings: dict[str, Any]
    miou: Score | None
    miou_present: Score | None
    classes: dict[str, Score]
    ranking: dict[int, Rank]

    def says_the_same_as(self, other: Result) -> bool:
        """Whether all numbers and facts agree."""
        mine, others = ((r.facts, r.miou, r.classes, r.ranking) for r in (self, other))
        return mine == others


@dataclass(frozen=True)
class Found:
    """Results, and files of folders that are not results, with the reason."""

    results: list[Result]
    left_out: list[tuple[Path, str]]


def find_results(paths: Sequence[Path]) -> Found:
    """Read the files among ``paths``, and every JSON result in the folders among them.

    An earlier result that was renamed with its date is left out if it equals the result that replaced it.

    Raises:
        UserError: a path does not exist, a named file is not a result, or a folder has none.
    """
    results: dict[Path, Result] = {}
    left_out: dict[Path, str] = {}
    for path in paths:
        if os.path.isdir(path):
            found = _read_folder(path)
            left_out |= {real_path(file): reason for file, reason in found.left_out}
        elif os.path.lexists(path):
            found = Found([read_named(path)], [])
        else:
            raise UserError(f"result {path} does not exist; the experiments write JSON files into results/")
        for result in found.results:
            results.setdefault(real_path(result.path), result)
    # a named file is read even if its folder leaves it out
    return Found(list(results.values()), [(path, why) for path, why in left_out.items() if path not in results])


def read_named(path: Path) -> Result:
    """Read a result file that the user named. Raises UserError if it is not a complete result of an experiment."""
    try:
        return read_result(path)
    except NoResultError as error:
        raise UserError(
            f"{path} is no result: {error}; expected a JSON file of an experiment ({', '.join(EXPERIMENTS)})"
        ) from error


def read_result(path: Path) -> Result:
    """Read one result file. Raises NoResultError if it cannot be read or is not a result of an experiment."""
    try:
        values = json.loads(read_regular(path, MAX_BYTES).decode("utf-8-sig"))
    except OSError as error:
        raise NoResultError(f"cannot be read ({error.strerror or error})") from error
    except UnicodeDecodeError as error:
        raise NoResultError("no UTF-8 text") from error
    except (ValueError, RecursionError) as error:
        raise NoResultError(f"no JSON ({error})") from error
    if not isinstance(values, dict) or "experiment" not in values:
        raise NoResultError("it names no experiment")
    experiment = values["experiment"]
    if experiment not in EXPERIMENTS:
        raise NoResultError(f"its experiment is {_short(experiment)}")
    layers = [_whole(layer, "a layer") for layer in _list(values, "layers")]
    settings = values.get("config")
    facts = {
        "experiment": experiment,
        "prompts": "multi" if values.get("multi_prompt") else "single",
        "layers": ", ".join(map(str, layers)),
    }
    if values.get("tuned") is not None:
        facts["tuned"] = f"{Path(_text(values['tuned'], 'file')).name} ({_text(values['tuned'], 'sha256')[:8]})"
    settings = settings if isinstance(settings, dict) else {}
    for scored in _list(values, "runs") if experiment == "one-shot" else [values]:
        _require_counts_to_agree(scored)
    if experiment == "infoscore":
        facts["images"] = str(_whole(_value(values, "images"), "images"))
        return Result(path, values, facts, settings, None, None, {}, _ranking(values))
    if experiment == "training-free":
        facts["images"] = str(_whole(_value(values, "images"), "images"))
        scores = {name: Score(iou) for name, iou in _ious(values)}
        present = Score(_fraction(values, "miou_present")) if values.get("absent_classes") else None
        return Result(path, values, facts, settings, Score(_fraction(values, "miou")), present, scores, {})
    runs = _list(values, "runs")
    if not runs:
        raise NoResultError("it has no runs")
    images = [_whole(_value(run, "images"), "images of a run") for run in runs]
    facts["images"] = " to ".join(map(str, sorted({min(images), max(images)})))
    facts["runs"] = str(len(runs))
    miou = Score(_fraction(values, "miou_mean"), _fraction(values, "miou_std"))
    present = None
    if values.get("absent_classes"):
        present = Score(_fraction(values, "miou_present_mean"), _fraction(values, "miou_present_std"))
    return Result(path, values, facts, settings, miou, present, _over_runs(values, runs), {})


def _read_folder(folder: Path) -> Found:
    """All JSON files of a folder; hidden ones are temporary files, or of another program."""
    results: list[Result] = []
    left_out: list[tuple[Path, str]] = []
    files = [file for file in folder.glob("*.json") if not file.name.startswith(".")]
    # renamed earlier results after the current ones, with which they are compared
    for file in sorted(files, key=lambda file: (earlier_result_of(file) is not None, file.name)):
        try:
            result = read_result(file)
        except NoResultError as error:
            left_out.append((file, str(error)))
            continue
        current = earlier_result_of(file)
        relatives = [r for r in results if current is not None and current in (r.path, earlier_result_of(r.path))]
        same = next((relative for relative in relatives if relative.says_the_same_as(result)), None)
        if same is None:
            results.append(result)
        else:
            left_out.append((file, f"says the same as {same.path.name}"))
    if not results:
        reasons = "".join(f"; {file.name}: {reason}" for file, reason in left_out[:3])
        raise UserError(f"folder {folder} contains no result; the experiments write JSON files into results/{reasons}")
    results.sort(key=lambda result: (earlier_result_of(result.path) or result.path, result.path))
    return Found(results, left_out)


def _over_runs(values: dict[str, Any], runs: list[Any]) -> dict[str, Score]:
    """Mean IoU per class, as written, and its standard deviation over the runs."""
    per_run = [dict(_ious(run)) for run in runs]
    scores = {}
    for name, iou in _ious(values):
        if any(name not in run for run in per_run):
            raise NoResultError(f"a run has no class {_short(name)}")
        scores[name] = Score(iou, statistics.pstdev(run[name] for run in per_run))
    return scores


def _ious(values: Any) -> Iterator[tuple[str, float]]:
    seen = set()
    for entry in _list(values, "classes"):
        name = _value(entry, "name")
        if not isinstance(name, str):
            raise NoResultError(f"a class is called {_short(name)}")
        if name in seen:
            raise NoResultError(f"class {_short(name)} is given twice")
        seen.add(name)
        yield name, _fraction(entry, "iou", f"iou of class {_short(name)}")


def _require_counts_to_agree(values: Any) -> None:
    """Refuse scores that contradict the counts of the same file, which was edited."""
    entries = values.get("classes") if isinstance(values, dict) else None
    if not isinstance(entries, list) or not all(isinstance(e, dict) and {*COUNTS} <= e.keys() for e in entries):
        return  # a ranking, or counts are missing
    expected = []
    for entry in entries:
        intersection, union = (_whole(entry[key], key) for key in COUNTS)
        expected.append(intersection / max(union, 1))
        _require_equal(_fraction(entry, "iou"), expected[-1], f"iou of class {_short(entry.get('name'))}")
    if expected:
        _require_equal(_fraction(values, "miou"), statistics.fmean(expected), "miou")


def _require_equal(found: float, expected: float, what: str) -> None:
    if not math.isclose(found, expected, abs_tol=1e-9):
        raise NoResultError(f"{what} is {found}, but its counts give {expected}: the file was edited")


def _ranking(values: dict[str, Any]) -> dict[int, Rank]:
    ranking: dict[int, Rank] = {}
    for row in _list(values, "table"):
        layer = _whole(_value(row, "layer"), "a layer")
        if layer in ranking:
            raise NoResultError(f"layer {layer} is given twice")
        rank = _whole(_value(row, "rank"), f"rank of layer {layer}")
        ranking[layer] = Rank(_number(_value(row, "infoscore"), f"infoscore of layer {layer}"), rank)
    if not ranking:
        raise NoResultError("its table is empty")
    return ranking


def _value(values: Any, key: str) -> Any:
    if not isinstance(values, dict):
        raise NoResultError(f"{key} is looked for in {_short(values)}")
    if key not in values:
        raise NoResultError(f"{key} is missing")
    return values[key]


def _list(values: Any, key: str) -> list[Any]:
    value = _value(values, key)
    if not isinstance(value, list):
        raise NoResultError(f"{key} is {_short(value)}, expected a list")
    return value


def _text(values: Any, key: str) -> str:
    value = _value(values, key)
    if not isinstance(value, str):
        raise NoResultError(f"{key} is {_short(value)}, expected a string")
    return value


def _whole(value: Any, what: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise NoResultError(f"{what} is {_short(value)}, expected a whole number")
    return value


def _number(value: Any, what: str) -> float:
    try:
        if not isinstance(value, bool) and isinstance(value, int | float) and math.isfinite(value):
            return float(value)
    except OverflowError:  # a whole number of hundreds of digits
        pass
    raise NoResultError(f"{what} is {_short(value)}, expected a number")


def _fraction(values: Any, key: str, what: str = "") -> float:
    number = _number(_value(values, key), what or key)
    if not 0 <= number <= 1:
        raise NoResultError(f"{what or key} is {_short(number)}, expected a fraction of 1")
    return number


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
