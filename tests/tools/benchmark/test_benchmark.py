"""The benchmark: both sides do the same stages of the same work, where they are told to, on any system."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
import torch

from src import cli
from src.errors import UserError
from tests import tiny
from tools.benchmark import __main__, comparison, floors, growth, measure, photos, plain, stopwatch, workload
from tools.benchmark.measure import Measurement
from tools.benchmark.options import Options

CPU = torch.device("cpu")
SMALL = Options(image_size=64, device="cpu", repeats=1, warm_up=0)


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    """A tiny model in the place of the large one; its vocabulary is tiny, too."""
    monkeypatch.setattr(workload, "blip_large", tiny.random_blip)
    monkeypatch.setattr(workload, "LAYERS", (0, 2))
    monkeypatch.setattr(workload, "ALL_LAYERS", range(3))

    class Words(workload.Words):
        def __call__(self, prompts: list[str], **options: object) -> SimpleNamespace:
            tokens = super().__call__(prompts, **options)
            return SimpleNamespace(
                input_ids=tokens.input_ids % len(tiny.VOCABULARY), attention_mask=tokens.attention_mask
            )

    monkeypatch.setattr(workload, "Words", Words)


@pytest.mark.parametrize("what", ["segment", "infoscore", "tuning", "runs"])
def test_both_sides_take_the_same_stages(what: str) -> None:
    options = dataclasses.replace(SMALL, what=what)
    sides = [measure.measure(side, options) for side in ("ours", "plain")]
    assert set(sides[0].seconds) == set(sides[1].seconds)
    assert all(seconds > 0 for side in sides for seconds in side.seconds.values())
    assert all(side.peak_bytes > 10**6 for side in sides)


def test_plain_tunes_on_the_device_that_was_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """On ``meta``, the one device besides the CPU that every machine has."""
    seen: list[torch.Tensor] = []

    def note(model: torch.nn.Module, ids: torch.Tensor, mask: torch.Tensor, _: object, supports: list, *__: object):
        seen.extend([next(model.parameters()), ids, mask, *(tensor for support in supports for tensor in support)])

    monkeypatch.setattr(plain, "plain_tune", note)
    meta = torch.device("meta")
    side = plain.Plain(dataclasses.replace(SMALL, what="tuning"), meta)
    side.jobs["tuning"](stopwatch.Stopwatch(meta), [workload.photo(0), workload.photo(1)])
    assert len(seen) == 3 + 2 * 2
    assert {tensor.device.type for tensor in seen} == {"meta"}


@pytest.mark.parametrize(("amp", "numbers"), [("false", "float32"), ("bf16", "bfloat16")])
def test_floors_are_of_the_number_format_that_ours_took(
    amp: str, numbers: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = dataclasses.replace(SMALL, amp=amp)
    assert measure.measure("plain", options).numbers == "float32"
    assert measure.measure("ours", options).numbers == numbers
    monkeypatch.setattr(floors, "matmul_rate", lambda _, numbers: {"float32": 1e9, "bfloat16": 4e9}[numbers])
    monkeypatch.setattr(floors, "copy_rate", lambda _: 1e12)
    full, found = floors.floors(options, "float32"), floors.floors(options, numbers)
    gain = {"float32": 1, "bfloat16": 4}[numbers]
    expected = {stage: value / (gain if stage in ("vision", "text") else 1) for stage, value in full.items()}
    assert found == pytest.approx(expected)


def test_the_model_alone_is_a_job_of_ours() -> None:
    assert measure.measure("ours", dataclasses.replace(SMALL, what="nothing")).seconds == {}


def test_prompts_repeat_words_until_there_are_enough() -> None:
    prompts = workload.vocabulary(Options(prompts=60))
    assert (len(prompts), len(prompts.class_names), sum(prompts.prompts_per_class)) == (60, 21, 60)
    assert len(workload.vocabulary(Options(prompts=60, all_classes=True)).class_names) == 60
    with pytest.raises(UserError, match=r"--prompts 3: pascal alone has 49"):
        workload.vocabulary(Options(prompts=3))


def test_peak_memory_needs_no_resource_module_on_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "resource", None)  # importing it fails
    monkeypatch.setattr(sys, "platform", "win32")
    process = SimpleNamespace(memory_info=lambda: SimpleNamespace(peak_wset=123))
    monkeypatch.setattr(psutil, "Process", lambda: process)
    assert stopwatch.peak_memory(CPU) == 123


def test_a_side_that_fails_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    failed = SimpleNamespace(returncode=1, stderr="... out of memory\n", stdout="")
    monkeypatch.setattr(measure.subprocess, "run", lambda *_, **__: failed)
    with pytest.raises(UserError, match=r"the plain side failed: \.\.\. out of memory"):
        measure.measure_apart("plain", SMALL)


def test_a_process_of_its_own_gives_its_measurement(capsys: pytest.CaptureFixture[str]) -> None:
    asked = json.dumps(dataclasses.asdict(SMALL))
    assert cli.run(__main__.main, ["--side", "ours", "--options", asked]) == 0
    found = Measurement(**json.loads(capsys.readouterr().out.splitlines()[-1]))
    assert list(found.seconds) == ["read", "vision", "text", "maps", "CRF", "metric"]


def test_the_table_compares_stage_by_stage() -> None:
    gib = 2**30
    plain, full, short = (
        Measurement({"read": a, "text": b}, peak)
        for a, b, peak in ((1.0, 9.0, 4 * gib), (1.0, 1.5, 3 * gib), (0.5, 0.5, int(2.5 * gib)))
    )
    ours, least = {"float32": full, "bfloat16": short}, {"float32": {"text": 0.5}, "bfloat16": {"text": 0.25}}
    lines = comparison.markdown(plain, ours, least, 2 * gib).splitlines()
    columns = lines[0].count("|")
    assert all(line.count("|") == columns for line in lines)
    assert lines[2:] == [
        "| read | 1.000 | 1.000 | 1.0 x |  | 0.500 | 2.0 x |  |",
        "| text | 9.000 | 1.500 | 6.0 x | 0.500 | 0.500 | 18.0 x | 0.250 |",
        "| **whole** | 10.00 | 2.50 | **4.0 x** | 0.50 | 1.00 | **10.0 x** | 0.25 |",
        "| peak, GiB | 4.00 | 3.00 | 1.3 x |  | 2.50 | 1.6 x |  |",
        "| of it above the model's 2.00 | 2.00 | 1.00 | 2.0 x |  | 0.50 | 4.0 x |  |",
    ]


def test_a_format_that_is_another_one_here_is_told_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """As ``true`` is float32 where that is faster."""

    def measured(side: str, options: Options) -> Measurement:
        return Measurement({}, 0, {"false": "float32", "true": "float32", "bf16": "bfloat16"}[options.amp])

    monkeypatch.setattr(comparison, "measure_apart", measured)
    assert list(comparison.measure_formats(SMALL, ["false", "true", "bf16"])) == ["float32", "bfloat16"]


def test_growth_asks_for_one_value_after_the_other(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[Options] = []

    def measured(side: str, options: Options) -> Measurement:
        asked.append(options)
        gain = {"false": 1, "true": 4}[options.amp]
        return Measurement({"text": options.batch_size / 10 / gain}, 2**30, {1: "float32", 4: "bfloat16"}[gain])

    for module in (growth, comparison):
        monkeypatch.setattr(module, "measure_apart", measured)
    growth.growth(SMALL, ["false", "true"], tmp_path / "new" / "growth.png")
    assert asked.pop(0).what == "nothing"
    assert [options.amp for options in asked] == ["false", "true"] * (len(asked) // 2)
    asked = asked[::2]
    assert [options.prompts for options in asked[:10]] == [*growth.PROMPTS] * 2
    assert [options.all_classes for options in asked[:10]] == [False] * 5 + [True] * 5
    assert [options.batch_size for options in asked[-4:]] == [*growth.BATCHES]
    assert all(dataclasses.replace(SMALL, batch_size=options.batch_size) == options for options in asked[-4:])
    table = capsys.readouterr().out
    assert "| | float32: images / s | GiB above the model | bfloat16: images / s | GiB above the model |" in table
    assert "| batch size 2 | 5.000 | 0.00 | 20.000 | 0.00 |" in table
    assert (tmp_path / "new" / "growth.png").stat().st_size > 1000


def test_photos_are_timed_both_ways(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    ways: list[str] = []
    for module, name in ((photos.pipeline, "run"), (photos, "one_by_one")):
        work = getattr(module, name)
        monkeypatch.setattr(module, name, lambda *given, name=name, work=work: (ways.append(name), work(*given)))
    photos.photos(dataclasses.replace(SMALL, batch_size=2, repeats=2), "false", count=3, sizes=[(40, 30)])
    assert ways == ["one_by_one", "run"] * 2
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "3 photos, up to 2 at once through the model, float32"
    assert lines[-1].startswith("| 40 x 30 | ")
