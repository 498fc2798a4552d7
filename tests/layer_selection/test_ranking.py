"""Ranking layers, choosing them by the ranking, and the kept ranking, which is reused only if nothing has changed."""

import csv
import json
import os
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor

import compute_infoscore_blip
import training_free_blip
from src import cli
from src.config.reader import load_config
from src.config.schema import Config
from src.data.lists import evaluation_entries
from src.errors import UserError
from src.evaluation import identity
from src.files import REPOSITORY
from src.layer_selection.choice import choose_layers
from src.layer_selection.comparison import compare_layers
from src.layer_selection.infoscore import COLUMNS
from src.layer_selection.ranking import rank_layers, ranking_segmenter
from src.method.blip import load_blip
from src.method.prompts import read_class_file
from src.method.segmenter import Segmenter

ROOT = Path(__file__).parents[2]
GOLDEN = ROOT / "tests" / "golden" / "pascal"
CONFIG = ROOT / "tests" / "golden_training_free.yaml"
CHANGED_IMAGE = Path("data", "JPEGImages", "000002.png")
QUICK = ("model.image_size=64", "crf.iters=0", "max_images=4")
PUBLISHED = json.loads((GOLDEN / "expected.json").read_text())["infoscore"]


@pytest.fixture
def encoded(monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """Records the images that the vision encoder gets."""
    images: list[Tensor] = []
    encode = Segmenter.encode_images
    monkeypatch.setattr(Segmenter, "encode_images", lambda self, pixels: images.extend(pixels) or encode(self, pixels))
    return images


@pytest.fixture
def case(tmp_path: Path) -> Path:
    """A copy of model, data and classes that a test may change."""
    folder = tmp_path / "case"
    shutil.copytree(GOLDEN, folder, ignore=shutil.ignore_patterns("expected*"))
    image = folder / CHANGED_IMAGE
    Image.open(GOLDEN / CHANGED_IMAGE).save(image, format="BMP")  # uncompressed: other pixels, same length
    return folder


def case_config(case: Path, *overrides: str) -> Config:
    places = [
        f"data_root={case / 'data'}",
        f"val_list={case / 'data' / 'val.txt'}",
        f"class_name_dir={case / 'classes.json'}",
        f"model.name={case / 'model'}",
        f"output.csv={case / 'results' / 'case.csv'}",
    ]
    return load_config(CONFIG, [*QUICK, *places, "model.layers=auto", *overrides])


def chosen(config: Config, cache: Path) -> tuple[int, ...]:
    blip = load_blip(config.model.name, torch.device("cpu"), config.runtime.attention == "fused")
    classes = read_class_file(Path(config.class_name_dir), config.dataset.num_classes)
    return choose_layers(config, blip, classes, evaluation_entries(config, masks=False), cache)


def test_named_layers_are_used_as_given(tmp_path: Path, encoded: list[Tensor], case: Path) -> None:
    assert chosen(case_config(case, "model.layers=[3, 0]"), tmp_path / "cache") == (3, 0)
    assert not encoded
    assert not (tmp_path / "cache").exists()


def test_auto_uses_the_best_layers_by_infoscore(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = load_config(CONFIG, ["model.layers=auto", f"class_name_dir={GOLDEN / 'classes.json'}"])
    assert chosen(config, tmp_path) == tuple(sorted(PUBLISHED["ranking"][:2]))
    said = capsys.readouterr().out
    assert "InfoScore of 24 images: computed, kept in" in said
    assert "layers: [2, 3]  # top 2 by InfoScore" in said


def test_a_ranking_is_computed_once(
    tmp_path: Path, encoded: list[Tensor], case: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = chosen(case_config(case), tmp_path / "cache")
    assert len(encoded) == 4
    assert chosen(case_config(case), tmp_path / "cache") == first
    # a ranking does not depend on the number of layers used, masks, batches, CRF and paths
    for mask in (case / "data" / "SegmentationClassAug").iterdir():
        mask.unlink()
    moved = case.rename(case.with_name("moved"))
    others = ("model.top_k=3", "crf.iters=7", "dataloader.batch_size=3", "runtime.seed=5")
    three = chosen(case_config(moved, *others), tmp_path / "cache")
    assert len(encoded) == 4
    assert set(first) < set(three)
    assert len(three) == 3
    assert capsys.readouterr().out.count("found in") == 2
    assert len(list((tmp_path / "cache").iterdir())) == 1


def change_a_byte_of_an_image(case: Path) -> None:
    contents = bytearray((case / CHANGED_IMAGE).read_bytes())
    contents[-1] ^= 1
    (case / CHANGED_IMAGE).write_bytes(contents)


def change_a_weight(case: Path) -> None:
    weights = load_file(case / "model" / "model.safetensors")
    weights["vision_model.embeddings.class_embedding"].view(-1)[3] += 1e-6
    save_file(weights, case / "model" / "model.safetensors", metadata={"format": "pt"})


def change_the_heads(case: Path) -> None:
    """The same weights, used as two heads instead of four."""
    config = json.loads((case / "model" / "config.json").read_text())
    config["text_config"]["num_attention_heads"] = 2
    (case / "model" / "config.json").write_text(json.dumps(config))


def change_a_word(case: Path) -> None:
    classes = json.loads((case / "classes.json").read_text())
    classes[4]["name"] = "ship"
    (case / "classes.json").write_text(json.dumps(classes))


def change_the_list(case: Path) -> None:
    lines = (case / "data" / "val.txt").read_text().splitlines()
    lines[3] = lines[4]
    (case / "data" / "val.txt").write_text("\n".join(lines))


def nothing(_: Path) -> None:
    pass


@pytest.mark.parametrize(
    ("change", "overrides"),
    [
        (change_a_byte_of_an_image, []),
        (change_a_weight, []),
        (change_the_heads, []),
        (change_a_word, []),
        (change_the_list, []),
        (nothing, ["max_images=3"]),
        (nothing, ["model.image_size=80"]),
        (nothing, ["dataset.mean=[0.5, 0.456, 0.406]"]),
        (nothing, ["dataset.std=[0.5, 0.224, 0.225]"]),
        (nothing, ["runtime.attention=exact"]),
        (nothing, ["runtime.amp=bf16"]),
    ],
)
def test_a_ranking_of_something_else_is_not_found(
    change: Callable[[Path], None], overrides: list[str], tmp_path: Path, encoded: list[Tensor], case: Path
) -> None:
    chosen(case_config(case), tmp_path)
    before = len(encoded)
    change(case)
    chosen(case_config(case, *overrides), tmp_path)
    assert len(encoded) > before
    assert len(list(tmp_path.glob("infoscore_*.json"))) == 2


def change_the_code(monkeypatch: pytest.MonkeyPatch, _: Path) -> None:
    monkeypatch.setattr(identity, "code_of", lambda experiment: {"src/method/attention.py": "changed"})


def change_transformers(monkeypatch: pytest.MonkeyPatch, _: Path) -> None:
    monkeypatch.setattr(identity.transformers, "__version__", "5.18.0")


@pytest.mark.parametrize("change", [change_the_code, change_transformers])
def test_a_ranking_by_other_software_is_not_found(
    change: Callable[[pytest.MonkeyPatch, Path], None],
    tmp_path: Path,
    encoded: list[Tensor],
    case: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    chosen(case_config(case), tmp_path / "cache")
    change(monkeypatch, tmp_path)
    chosen(case_config(case), tmp_path / "cache")
    assert len(encoded) == 8
    assert len(list((tmp_path / "cache").glob("infoscore_*.json"))) == 2


def test_the_code_of_a_ranking_is_the_model_and_the_method() -> None:
    """The digest covers every file of the project that ranking layers imports, and no code of charts."""
    ranked = textwrap.dedent("""
        import sys, torch
        from pathlib import Path
        from src.config.reader import load_config
        from src.data.lists import evaluation_entries
        from src.layer_selection.ranking import rank_layers, ranking_segmenter
        from src.method.checkpoints import load_configured
        from src.method.prompts import read_class_file
        from src.files import resolve
        config = load_config(Path(sys.argv[1]), ["max_images=2"])
        classes = read_class_file(resolve(config.class_name_dir), config.dataset.num_classes)
        segmenter = ranking_segmenter(config, load_configured(config, torch.device("cpu")), classes)
        rank_layers(segmenter, evaluation_entries(config), config)
        print(*sorted(m.__file__ for n, m in sys.modules.items() if n.split(".")[0] in ("src", "replace_huggingface")))
    """)
    command = [sys.executable, "-c", ranked, str(CONFIG)]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True)
    loaded = {
        str(Path(file).relative_to(REPOSITORY)).removeprefix("src/") for file in done.stdout.splitlines()[-1].split()
    }
    covered = set(identity.code_of("InfoScore"))
    # code that reads settings, which are in the digest themselves; and code that only prints
    assert loaded - {"config/reader.py", *identity.SPEAKING} <= covered
    assert {"method/attention.py", "data/frame.py", "replace_huggingface/modeling_blip_text.py"} <= covered
    assert not any(path.startswith(("output", "photos", "one_shot")) for path in covered)


def test_an_image_that_cannot_be_read_leaves_no_ranking(tmp_path: Path, case: Path) -> None:
    (case / "data" / "JPEGImages" / "000001.png").write_bytes(b"")
    with pytest.raises(UserError, match=r"000001.png cannot be read"):
        chosen(case_config(case), tmp_path / "cache")
    assert not list((tmp_path / "cache").glob("*.json"))


def test_a_pipe_in_the_list_is_refused_without_waiting(tmp_path: Path, case: Path) -> None:
    (case / CHANGED_IMAGE).unlink()
    os.mkfifo(case / CHANGED_IMAGE)
    with pytest.raises(UserError, match="it is a named pipe"):
        chosen(case_config(case), tmp_path / "cache")


def test_one_image_gives_no_ranking(tmp_path: Path, case: Path) -> None:
    with pytest.raises(UserError, match="InfoScore needs at least 2 readable images, got 1"):
        chosen(case_config(case, "max_images=1"), tmp_path)


def test_a_kept_ranking_serves_every_command(case: Path, encoded: list[Tensor]) -> None:
    """``layers: auto`` in the training-free command first ranks layers, and segments with the best."""
    config = case_config(case)
    arguments = ["--config", str(CONFIG), "--device", "cpu", "--set", *QUICK]
    arguments += [f"model.name={case / 'model'}", f"output.csv={config.output.csv}", "model.layers=auto"]
    written = []
    for _ in range(2):
        assert cli.run(training_free_blip.main, arguments) == 0
        written.append(json.loads((case / "results" / "case.json").read_text()))
    assert len(encoded) == 4 + 4 + 4  # ranking, segmenting, segmenting again
    assert list((case / "results").glob("infoscore_*.json"))
    assert written[0]["layers"] == written[1]["layers"]
    assert cli.run(training_free_blip.main, [*arguments, f"model.layers={written[0]['layers']}"]) == 0
    assert json.loads((case / "results" / "case.json").read_text())["confusion"] == written[0]["confusion"]


def test_the_command_and_auto_share_one_ranking(
    case: Path, encoded: list[Tensor], capsys: pytest.CaptureFixture[str]
) -> None:
    places = [f"model.name={case / 'model'}", f"output.csv={case_config(case).output.csv}"]
    arguments = ["--config", str(CONFIG), "--device", "cpu", "--set", *QUICK, *places]
    tables = []
    for extra in ([], [], [f"output.infoscore_csv={case / 'elsewhere' / 'rank.csv'}"]):
        assert cli.run(compute_infoscore_blip.main, [*arguments, *extra]) == 0
        table = case / "elsewhere" / "rank.csv" if extra else case / "results" / "case_infoscore.csv"
        tables.append(table.read_text())
    assert cli.run(training_free_blip.main, [*arguments, "model.layers=auto"]) == 0
    assert len(encoded) == 4 + 4  # ranking once, segmenting
    assert len({*tables}) == 1  # to the last digit
    assert capsys.readouterr().out.count("found in") == 3


def test_auto_reuses_the_ranking_of_a_comparison(case: Path, encoded: list[Tensor]) -> None:
    config = case_config(case)
    arguments = ["--config", str(CONFIG), "--device", "cpu", "--compare", "--set", *QUICK]
    places = {"data_root": config.data_root, "val_list": config.val_list, "output.csv": config.output.csv}
    arguments += [f"model.name={config.model.name}", *(f"{key}={value}" for key, value in places.items())]
    assert cli.run(compute_infoscore_blip.main, arguments) == 0
    before = len(encoded)
    layers = json.loads((case / "results" / "case_infoscore.json").read_text())["layers"]
    assert chosen(config, case / "results") == tuple(layers)
    assert len(encoded) == before


def edit(change: Callable[[dict], object]) -> Callable[[Path], None]:
    def edited(path: Path) -> None:
        values = json.loads(path.read_text())
        change(values)
        path.write_text(json.dumps(values))

    return edited


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(path.read_bytes()[:40]),
        lambda path: path.write_bytes(b"\xff\xfe"),
        lambda path: path.write_text("[" * 100_000),
        lambda path: path.write_text("[3, 2, 1, 0]"),
        lambda path: path.write_text('{"ranking": [0, 0, 0, 0]}'),  # no permutation
        lambda path: path.write_text('{"ranking": []}'),
        edit(lambda values: values["layers"].reverse()),
        edit(lambda values: values["cov"].pop()),
        edit(lambda values: values["cov"].reverse()),  # numbers, but of other layers
        edit(lambda values: values.update(cov=[1.0, 2.0, float("nan"), 3.0])),
        edit(lambda values: values.update(cov=["1", "2", "3", "4"])),
    ],
)
def test_an_invalid_kept_ranking_is_recomputed(
    damage: Callable[[Path], object],
    case: Path,
    encoded: list[Tensor],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    config = case_config(case, "max_images=2")
    layers = chosen(config, tmp_path / "cache")
    (path,) = (tmp_path / "cache").iterdir()
    whole = path.read_bytes()
    damage(path)
    assert chosen(config, tmp_path / "cache") == layers
    assert len(encoded) == 2 + 2
    assert f"the ranking kept in {path} cannot be used" in capsys.readouterr().err
    assert path.read_bytes() == whole


def test_an_unwritable_folder_for_rankings_is_refused_before_computing(
    case: Path, encoded: list[Tensor], tmp_path: Path
) -> None:
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(UserError, match=r"cannot write .*cache"):
        chosen(case_config(case), tmp_path / "cache")
    assert not encoded


def test_a_subset_of_layers_keeps_its_numbers(case: Path, tmp_path: Path) -> None:
    config = case_config(case)
    blip = load_blip(config.model.name, torch.device("cpu"))
    every = ranking_segmenter(config, blip, read_class_file(case / "classes.json", 7))
    some = Segmenter.from_config(config, blip, every.prompts, (1, 3))
    entries = evaluation_entries(config)
    scores, whole = rank_layers(some, entries, config), rank_layers(every, entries, config)
    assert scores.ranking == [layer for layer in whole.ranking if layer in (1, 3)]
    torch.testing.assert_close(scores.infoscore, whole.infoscore[[1, 3]], rtol=1e-5, atol=0)
    compared = compare_layers(some, entries, config, 1)
    assert [choice.layers for choice in compared.choices] == [(1,), (3,), (scores.ranking[0],), (1, 3), (3,)]


@pytest.mark.parametrize("batch", [1, 3])
def test_batches_do_not_change_scores(batch: int, case: Path) -> None:
    config = case_config(case, f"dataloader.batch_size={batch}", "max_images=7", "dataloader.num_workers=1")
    blip = load_blip(config.model.name, torch.device("cpu"))
    segmenter = ranking_segmenter(config, blip, read_class_file(case / "classes.json", 7))
    assert len(segmenter.prompts) == 13  # the single-prompt set
    assert segmenter.layers == (0, 1, 2, 3)
    entries = evaluation_entries(config, masks=False)
    scores = rank_layers(segmenter, entries, config)
    reference = rank_layers(segmenter, entries, case_config(case, "max_images=7"))
    torch.testing.assert_close(scores.infoscore, reference.infoscore, rtol=1e-5, atol=0)


# The command


def run(tmp_path: Path, *overrides: str, arguments: tuple[str, ...] = ()) -> int:
    options = ["--config", str(CONFIG), "--device", "cpu", "--output-dir", str(tmp_path / "out")]
    return cli.run(compute_infoscore_blip.main, [*options, *arguments, *(["--set", *overrides] if overrides else [])])


def test_the_command_reproduces_the_published_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(tmp_path) == 0
    rows = list(csv.reader((tmp_path / "out" / "golden_infoscore.csv").read_text().splitlines()))
    assert rows[0] == ["layer", "mean_image_entropy", "dataset_entropy", "entropy_ratio", "cov", "infoscore", "rank"]
    ratio = np.divide(PUBLISHED["dataset_entropy"], PUBLISHED["mean_image_entropy"])
    columns = [PUBLISHED["mean_image_entropy"], PUBLISHED["dataset_entropy"], ratio, PUBLISHED["cov"]]
    for layer, row in enumerate(rows[1:]):
        expected = [*(column[layer] for column in columns), PUBLISHED["infoscore"][layer]]
        assert row[0] == str(layer)
        assert [float(value) for value in row[1:-1]] == pytest.approx(expected, rel=1e-4)
        assert row[-1] == str(PUBLISHED["ranking"].index(layer) + 1)
    written = json.loads((tmp_path / "out" / "golden_infoscore.json").read_text())
    assert written["layers_by_infoscore"] == PUBLISHED["ranking"]
    assert written["layers"] == [2, 3]
    assert written["images"] == 24
    assert [[str(entry[name]) for name in COLUMNS] for entry in written["table"]] == rows[1:]
    assert "comparison" not in written
    with Image.open(tmp_path / "out" / "golden_infoscore.png") as chart:
        assert chart.format == "PNG"
    assert len(list((tmp_path / "out").iterdir())) == 3 + 1  # CSV, JSON and chart, and the ranking that is kept
    said = capsys.readouterr()
    assert "--set 'model.layers=[2, 3]' segments with the best 2 layers" in said.out.splitlines()[-1]
    for row in rows[1:]:  # the table on the screen
        assert f"{float(row[5]):.3f}" in said.out
    assert "top=[3, 2]" in said.err  # the progress bar


def test_top_sets_the_number_of_layers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(tmp_path, arguments=("--top", "3")) == 0
    assert "--set 'model.layers=[1, 2, 3]' segments with the best 3 layers" in capsys.readouterr().out.splitlines()[-1]


def test_masks_are_not_needed(tmp_path: Path, case: Path) -> None:
    """The same images as a list without masks and as a plain folder give the same table."""
    shutil.rmtree(case / "data" / "SegmentationClassAug")
    lines = (case / "data" / "val.txt").read_text().splitlines()
    (case / "bare.txt").write_text("\n".join(line.split()[0] for line in lines))
    sources = {
        "list": (f"data_root={case / 'data'}", f"val_list={case / 'bare.txt'}"),
        "folder": ("data_root=/no/such/folder", f"val_list={case / 'data' / 'JPEGImages'}"),
        "whole": (),
    }
    tables = set()
    for name, overrides in sources.items():
        assert run(tmp_path / name, "model.image_size=64", *overrides) == 0
        tables.add((tmp_path / name / "out" / "golden_infoscore.csv").read_text())
    assert len(tables) == 1


@pytest.mark.parametrize("more", [(), ("--compare",)])
def test_an_unreadable_first_image_is_skipped(
    more: tuple[str, ...], tmp_path: Path, case: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With batches of one image the first block is empty then, and the running ranking has no image."""
    places = [f"data_root={case / 'data'}", f"val_list={case / 'data' / 'val.txt'}", "model.image_size=64"]
    first = case / "data" / "JPEGImages" / "000000.png"
    first.write_bytes(b"")
    arguments = ("--limit", "4", *more)
    assert run(tmp_path, *places, "dataloader.batch_size=1", arguments=(*arguments, "--skip-unreadable")) == 3
    assert f"skipped: image {first} cannot be read" in capsys.readouterr().err
    result = json.loads((tmp_path / "out" / "golden_infoscore.json").read_text())
    assert result["images"] == 3
    assert [entry["image"] for entry in result["skipped"]] == [str(first)]
    lines = (case / "data" / "val.txt").read_text().splitlines(keepends=True)
    (case / "data" / "val.txt").write_text("".join(lines[1:4]))  # the same without the image
    assert run(tmp_path / "without", *places, "dataloader.batch_size=1", arguments=more) == 0
    without = json.loads((tmp_path / "without" / "out" / "golden_infoscore.json").read_text())
    assert without["table"] == result["table"]
    if more:
        assert without["comparison"] == result["comparison"]


@pytest.mark.parametrize(
    ("arguments", "overrides", "message"),
    [
        (("--top", "5"), (), "model.top_k: 5 is not valid; expected at most 4"),
        (("--limit", "1"), (), "InfoScore needs at least 2 readable images, got 1"),
        (("--compare", "--limit", "1"), (), "InfoScore needs at least 2 readable images, got 1"),
        ((), ("model.layers=[]",), "model.layers"),
        ((), ("model.layers=[0, 9]",), "layers 0 to 3"),
        ((), ("val_list=tests/oracles",), "is a folder without images"),
        (("--compare",), ("val_list=tests/golden/pascal/data/JPEGImages",), "JPEGImages is a folder"),
    ],
)
def test_bad_input_gives_a_one_line_error_and_overwrites_nothing(
    arguments: tuple[str, ...],
    overrides: tuple[str, ...],
    message: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "out").mkdir()
    earlier = tmp_path / "out" / "golden_infoscore.csv"
    earlier.write_text("earlier")
    assert run(tmp_path, *overrides, arguments=arguments) == 2
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert message in errors[0]
    assert earlier.read_text() == "earlier"
    assert len(list((tmp_path / "out").iterdir())) == 1
