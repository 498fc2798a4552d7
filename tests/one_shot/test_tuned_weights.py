"""Tuned weights as files: round trips, and the models they are refused for."""

import csv
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

import one_shot_blip
import training_free_blip
from src import cli
from src.config.reader import load_config
from src.data.dataset import SegmentationDataset
from src.data.lists import evaluation_entries
from src.errors import UserError
from src.method.blip import load_blip
from src.method.model import digest_of
from src.method.prompts import build_prompts, read_class_file
from src.method.segmenter import Segmenter
from src.one_shot.tuned_weights import load_tuned, save_tuned
from src.result_files import Outputs
from tools import report

ROOT = Path(__file__).parents[2]
GOLDEN = ROOT / "tests" / "golden" / "pascal"
ONE_SHOT = ROOT / "tests" / "golden_one_shot.yaml"
TRAINING_FREE = ROOT / "tests" / "golden_training_free.yaml"
QUICK = ["model.image_size=64", "crf.iters=1"]


def segmenter_of(*overrides: str) -> tuple[Segmenter, Tensor]:
    """A segmenter and the pixels of an image."""
    config = load_config(ONE_SHOT, [*QUICK, *overrides])
    blip = load_blip(config.model.name, torch.device("cpu"))
    prompts = build_prompts(read_class_file(GOLDEN / "classes.json", 7), False)
    pixels = SegmentationDataset.from_config(evaluation_entries(config), config)[0].pixels[None]
    return Segmenter.from_config(config, blip, prompts, config.model.layers), pixels


@pytest.fixture
def tuned(tmp_path: Path) -> tuple[Path, Segmenter, Tensor]:
    """A file of tuned weights, the segmenter it was saved from, and an image."""
    segmenter, pixels = segmenter_of()
    generator = torch.Generator().manual_seed(0)
    weights = segmenter.untuned_weights()
    tuned = segmenter.with_weights(
        {name: t + 0.1 * torch.randn(t.shape, generator=generator) for name, t in weights.items()}
    )
    path = tmp_path / "tuned.safetensors"
    save_tuned(path, tuned, {"run": 3, "losses": [0.5]})
    return path, tuned, pixels


def test_a_round_trip_gives_the_same_segmentation(tuned: tuple[Path, Segmenter, Tensor]) -> None:
    path, saved_from, pixels = tuned
    fresh, _ = segmenter_of()
    untuned = fresh.segment(pixels)  # and cache the prompts' states of the untuned weights
    loaded = load_tuned(path, fresh)
    assert torch.equal(loaded.segment(pixels), saved_from.segment(pixels))
    assert not torch.allclose(loaded.segment(pixels), untuned)
    assert torch.equal(fresh.segment(pixels), untuned)
    assert set(loaded.weights) == set(saved_from.weights)
    assert all(torch.equal(loaded.weights[name], saved_from.weights[name]) for name in loaded.weights)


def test_the_file_contains_changed_tensors_and_its_json_their_origin(tuned: tuple[Path, Segmenter, Tensor]) -> None:
    path, segmenter, _ = tuned
    tensors = load_file(path)
    assert tensors["token_ids"].tolist() == segmenter.input_ids.unique().tolist()
    assert tensors["word_embeddings"].shape == (len(tensors["token_ids"]), 48)
    block = segmenter.model.model.text_encoder.encoder.layer[0].crossattention
    expected = {f"layer.{n}.crossattention.{name}" for n in (0, 2) for name, _ in block.named_parameters()}
    assert set(tensors) == expected | {"token_ids", "word_embeddings"}
    origin = json.loads(path.with_suffix(".json").read_text())
    assert (origin["run"], origin["losses"], origin["layers"]) == (3, [0.5], [2, 0])
    assert origin["prompts"] == segmenter.prompts.prompts
    assert origin["weights"] == segmenter_of()[0].model.digest  # digest of the untuned model


def test_saving_again_keeps_the_earlier_file(tuned: tuple[Path, Segmenter, Tensor]) -> None:
    path, segmenter, _ = tuned
    earlier = path.read_bytes()
    save_tuned(path, segmenter, {"run": 3, "losses": [0.5]})
    assert len(list(path.parent.iterdir())) == 2  # equal: no earlier file to keep
    other = segmenter.with_weights({name: 2 * tensor for name, tensor in segmenter.weights.items()})
    save_tuned(path, other, {"run": 3, "losses": [0.4]})
    assert path.read_bytes() != earlier
    (kept,) = set(path.parent.glob("tuned.*.safetensors"))
    assert kept.read_bytes() == earlier


def evaluate_tuned(tmp_path: Path, path: Path, *overrides: str, arguments: Sequence[str] = ()) -> int:
    options = ["--config", str(TRAINING_FREE), "--device", "cpu", "--output-dir", str(tmp_path / "out")]
    settings = [*QUICK, "max_images=2", *overrides]
    return cli.run(training_free_blip.main, [*options, "--tuned", str(path), "--set", *settings, *arguments])


def test_the_training_free_command_scores_as_the_tuning_command_did(tmp_path: Path) -> None:
    common = ["--device", "cpu", "--output-dir", str(tmp_path)]
    few = [*QUICK, "oneshot.num_iterations=1", "oneshot.total_runs=2"]
    assert cli.run(one_shot_blip.main, ["--config", str(ONE_SHOT), *common, "--set", *few]) == 0
    written = json.loads((tmp_path / "golden_summary.json").read_text())
    lines = (GOLDEN / "data" / "val.txt").read_text().splitlines()
    scores = []
    for number, run in enumerate(written["runs"]):
        supports = {Path(support["image"]).name for support in run["supports"]}
        queries = [line for line in lines if Path(line.split()[0]).name not in supports]
        (tmp_path / "queries.txt").write_text("\n".join(queries))
        weights = tmp_path / f"golden_summary_run{number}.safetensors"
        list_of_queries = f"val_list={tmp_path / 'queries.txt'}"
        assert evaluate_tuned(tmp_path, weights, list_of_queries, "max_images=null") == 0
        rows = list(csv.reader((tmp_path / "out" / "golden_tuned.csv").read_text().splitlines()))
        assert [float(iou) for _, iou in rows[1:]] == [entry["iou"] for entry in run["classes"]]
        again = json.loads((tmp_path / "out" / "golden_tuned.json").read_text())
        assert again["confusion"] == run["confusion"]
        scores.append(again["confusion"])
    assert scores[0] != scores[1]


def test_results_of_tuned_weights_do_not_replace_those_of_the_model(
    tuned: tuple[Path, Segmenter, Tensor], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    options = ["--config", str(TRAINING_FREE), "--device", "cpu", "--output-dir", str(out)]
    assert cli.run(training_free_blip.main, [*options, "--set", *QUICK, "max_images=2", "model.layers=[2, 0]"]) == 0
    untuned = {path.name: path.read_bytes() for path in out.iterdir()}
    assert "golden.csv" in untuned
    assert json.loads(untuned["golden.json"])["tuned"] is None
    assert evaluate_tuned(tmp_path, tuned[0]) == 0
    assert {name: (out / name).read_bytes() for name in untuned} == untuned
    assert {path.name for path in out.iterdir()} - set(untuned) == {
        name.replace("golden", "golden_tuned") for name in untuned
    }
    written = json.loads((out / "golden_tuned.json").read_text())
    sha256 = hashlib.sha256(tuned[0].read_bytes()).hexdigest()
    assert written["tuned"] == {"file": str(tuned[0]), "sha256": sha256}

    capsys.readouterr()
    assert cli.run(report.main, [str(out)]) == 0
    said = [[cell.strip() for cell in line.split("|")[1:-1]] for line in capsys.readouterr().out.splitlines()]
    assert ["IoU in percent", "golden", "golden_tuned"] in said
    assert ["tuned", "–", f"tuned.safetensors ({sha256[:8]})"] in said
    own, changed = next(row[1:] for row in said if row and row[0] == "**mIoU**")
    assert own != changed


def test_both_modes_are_named() -> None:
    outputs = Outputs(Path("/out"), multi_prompt=True, tuned=True)
    assert outputs.path("results/x.csv") == Path("/out/x_multi_tuned.csv")


def other_model(tmp_path: Path) -> str:
    folder = tmp_path / "other"
    shutil.copytree(GOLDEN / "model", folder)
    weights = load_file(folder / "model.safetensors")
    weights["itm_head.bias"][0] += 1e-3  # one number in total
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return f"model.name={folder}"


def other_words(tmp_path: Path) -> str:
    classes = json.loads((GOLDEN / "classes.json").read_text())
    classes[3]["name"] = "glider"
    (tmp_path / "classes.json").write_text(json.dumps(classes))
    return f"class_name_dir={tmp_path / 'classes.json'}"


def other_vocabulary(tmp_path: Path) -> str:
    """The same weights and words, but two words are swapped in the vocabulary."""
    folder = tmp_path / "other"
    shutil.copytree(GOLDEN / "model", folder)
    for name in ("vocab.txt", "tokenizer.json"):
        text = (folder / name).read_text()
        (folder / name).write_text(text.replace("sky", "???").replace("yacht", "sky").replace("???", "yacht"))
    return f"model.name={folder}"


def refusal(capsys: pytest.CaptureFixture[str], tmp_path: Path, code: int) -> str:
    assert code == 2
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").iterdir())
    lines = [line for line in capsys.readouterr().err.splitlines() if line]
    assert len(lines) == 1
    return lines[0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (other_model, "was made for other weights"),
        (other_words, "was made for another prompt set"),
        (other_vocabulary, "was made with another vocabulary"),
        (lambda _: "model.layers=[2, 1]", "was made for layers [2, 0], not [2, 1]; set model.layers to [2, 0]"),
        (lambda _: "model.layers=[2]", "was made for layers [2, 0], not [2]"),
    ],
)
def test_weights_tuned_for_other_settings_are_refused(
    change: Callable[[Path], str],
    message: str,
    tuned: tuple[Path, Segmenter, Tensor],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path, _, _ = tuned
    error = refusal(capsys, tmp_path, evaluate_tuned(tmp_path, path, change(tmp_path)))
    assert error.startswith(f"error: --tuned {path} {message}")


def test_weights_tuned_for_the_other_prompt_mode_are_refused(
    tuned: tuple[Path, Segmenter, Tensor], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = evaluate_tuned(tmp_path, tuned[0], arguments=["--multi_prompt"])
    assert "use the class file and --multi_prompt of the tuning command" in refusal(capsys, tmp_path, code)


def test_a_model_under_another_name_is_the_same_model(tuned: tuple[Path, Segmenter, Tensor], tmp_path: Path) -> None:
    shutil.copytree(GOLDEN / "model", tmp_path / "elsewhere")
    assert evaluate_tuned(tmp_path, tuned[0], f"model.name={tmp_path / 'elsewhere'}") == 0


@pytest.mark.parametrize("kind", ["missing", "text", "folder", "other safetensors", "truncated", "empty"])
def test_files_that_are_not_tuned_weights_are_refused(
    kind: str, tuned: tuple[Path, Segmenter, Tensor], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "weights.safetensors"
    if kind == "text":
        path.write_text("no weights at all, and long enough to look like a header\n")
    elif kind == "folder":
        path.mkdir()
    elif kind == "other safetensors":
        shutil.copy(GOLDEN / "model" / "model.safetensors", path)
    elif kind == "truncated":
        path.write_bytes(tuned[0].read_bytes()[:-100])
    elif kind == "empty":
        path.touch()
    error = refusal(capsys, tmp_path, evaluate_tuned(tmp_path, path))
    assert str(path) in error
    assert ("does not exist" if kind == "missing" else "is not a file of tuned weights") in error


def rewritten(path: Path, tensors: dict[str, Tensor], keep_checksum: bool = False, **changes: str | None) -> Path:
    """``path`` with other tensors or metadata (None: omitted); the checksum is that of the tensors."""
    with safe_open(path, framework="pt") as file:
        metadata = {**file.metadata(), **({} if keep_checksum else {"checksum": digest_of(tensors)}), **changes}
    save_file(tensors, path, metadata={key: text for key, text in metadata.items() if text is not None})
    return path


QUERY = "layer.2.crossattention.self.query.weight"


def without(name: str) -> Callable[[dict[str, Tensor]], None]:
    return lambda tensors: tensors.pop(name)


def with_one(name: str, value: float) -> Callable[[dict[str, Tensor]], None]:
    return lambda tensors: tensors[name].view(-1)[3:4].fill_(value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (with_one(QUERY, float("nan")), f": {QUERY} contains NaN or infinity; tune again"),
        (with_one("word_embeddings", float("inf")), ": word_embeddings contains NaN"),
        (without(QUERY), f"(it lacks the tensor {QUERY})"),
        (without("word_embeddings"), "(it lacks the tensor word_embeddings)"),
        (without("token_ids"), "(it lacks the tensor token_ids)"),
        (lambda t: t.update(more=torch.zeros(2)), "(it has an unexpected tensor more)"),
        (
            lambda t: t.update({QUERY: t[QUERY][:, :40].contiguous()}),
            f"({QUERY} is float32 [48, 40]; expected float32 [48, 48])",
        ),
        (
            lambda t: t.update({QUERY: t[QUERY].bfloat16()}),
            f"({QUERY} is bfloat16 [48, 48]; expected float32 [48, 48])",
        ),
        (lambda t: t.update(token_ids=t["token_ids"][1:].clone()), "(token_ids is int64"),
    ],
)
def test_unexpected_tensors_give_a_one_line_error(
    change: Callable[[dict[str, Tensor]], object],
    message: str,
    tuned: tuple[Path, Segmenter, Tensor],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    tensors = load_file(tuned[0])
    change(tensors)
    error = refusal(capsys, tmp_path, evaluate_tuned(tmp_path, rewritten(tuned[0], tensors)))
    assert error.startswith(f"error: --tuned {tuned[0]}")
    assert message in error


@pytest.mark.parametrize("change", [with_one(QUERY, 0.25), without(QUERY), with_one("token_ids", 7)])
def test_tensors_that_changed_after_they_were_saved_are_refused(
    change: Callable[[dict[str, Tensor]], object],
    tuned: tuple[Path, Segmenter, Tensor],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    tensors = load_file(tuned[0])
    change(tensors)
    path = rewritten(tuned[0], tensors, keep_checksum=True)
    assert "is damaged: its tensors differ from the saved ones" in refusal(
        capsys, tmp_path, evaluate_tuned(tmp_path, path)
    )


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"checksum": None}, "its metadata lack 'checksum'"),
        ({"made_for": None}, "its metadata lack 'made_for'"),
        ({"made_for": "no JSON"}, "Expecting value"),
        ({"made_for": "[" * 100_000}, "recursion"),
        ({"made_for": "[1]"}, "expected model, weights, prompts, layers"),
        ({"made_for": '{"model": "x"}'}, "expected model, weights, prompts, layers"),
        (
            {"made_for": '{"model": "x", "weights": null, "prompts": [], "layers": []}'},
            "its metadata are malformed: weights is None",
        ),
    ],
)
def test_bad_metadata_give_a_one_line_error(
    changes: dict[str, str | None],
    reason: str,
    tuned: tuple[Path, Segmenter, Tensor],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = rewritten(tuned[0], load_file(tuned[0]), **changes)
    error = refusal(capsys, tmp_path, evaluate_tuned(tmp_path, path))
    assert error.startswith(f"error: --tuned {path} is not a file of tuned weights")
    assert reason in error


def test_tuned_weights_are_a_regular_file(tmp_path: Path, tuned: tuple[Path, Segmenter, Tensor]) -> None:
    os.mkfifo(tmp_path / "pipe.safetensors")
    with pytest.raises(UserError, match=r"\(it is a named pipe; expected a regular file\)"):
        load_tuned(tmp_path / "pipe.safetensors", tuned[1])
