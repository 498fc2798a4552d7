"""The benchmark: both sides do the same stages of the same work, in the same number format, on any system."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
import torch

from src import cli
from src.errors import UserError
from src.layer_selection import infoscore
from tests.oracles import stages
from tests.tools.benchmark.conftest import CPU, SMALL
from tools.benchmark import (
    __main__,
    against_published,
    floors,
    growth,
    measure,
    photos,
    plain,
    startup,
    stopwatch,
    workload,
)
from tools.benchmark.measure import Measurement
from tools.benchmark.options import Options
from tools.benchmark.ours import Ours


def test_both_sides_compute_the_same_with_albef() -> None:
    """HuggingFace's modules run the layers before the first cross-attention for every image, this project once."""
    options = dataclasses.replace(SMALL, what="infoscore", model="albef")
    side, segmenter = plain.Plain(options, CPU), Ours(options, CPU).segmenter
    assert segmenter.layers == segmenter.model.layers == (1, 2, 3)
    pixels = workload.decode_photo(workload.photo(0), 64)[None]
    with torch.no_grad():
        itm, logits = side._attend(stopwatch.Stopwatch(CPU), pixels)
    seen = segmenter.attend(segmenter.encode_images(pixels))
    torch.testing.assert_close(seen.itm[0], itm, rtol=1e-4, atol=1e-5)
    for layer, expected in zip(segmenter.layers, logits, strict=True):
        torch.testing.assert_close(seen.token_logits[layer][0], expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("model", ["blip", "albef"])
@pytest.mark.parametrize("what", ["segment", "infoscore", "tuning", "runs"])
def test_both_sides_time_the_same_stages(what: str, model: str) -> None:
    options = dataclasses.replace(SMALL, what=what, model=model)
    sides = [measure.measure(side, options) for side in ("ours", "plain")]
    assert set(sides[0].seconds) == set(sides[1].seconds)
    assert all(seconds > 0 for side in sides for seconds in side.seconds.values())
    assert all(side.peak_bytes > 10**6 for side in sides)


def test_published_tuning_runs_on_the_chosen_device(monkeypatch: pytest.MonkeyPatch) -> None:
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
def test_both_sides_and_floors_use_the_number_format(amp: str, numbers: str, monkeypatch: pytest.MonkeyPatch) -> None:
    options = dataclasses.replace(SMALL, amp=amp)
    assert measure.measure("plain", options).numbers == numbers
    assert measure.measure("ours", options).numbers == numbers
    monkeypatch.setattr(floors, "matmul_rate", lambda _, numbers: {"float32": 1e9, "bfloat16": 4e9}[numbers])
    monkeypatch.setattr(floors, "copy_rate", lambda _: 1e12)
    full, found = floors.floors(options, "float32"), floors.floors(options, numbers)
    gain = {"float32": 1, "bfloat16": 4}[numbers]
    expected = {stage: value / (gain if stage in ("vision", "text") else 1) for stage, value in full.items()}
    assert found == pytest.approx(expected)


@pytest.mark.parametrize("what", ["segment", "infoscore", "tuning", "runs"])
def test_autocast_is_on_around_the_published_model_and_off_around_its_crf(
    what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As published: around model, matching head and maps, also in tuning; the CRF gets float32."""
    seen: dict[str, set[tuple[bool, torch.dtype]]] = {}

    def note(module: object, name: str) -> None:
        function = getattr(module, name)

        def noted(*given: Any) -> Any:
            tensor = given[0] if isinstance(given[0], torch.Tensor) else given[1]
            seen.setdefault(name, set()).add((torch.is_autocast_enabled("cpu"), tensor.dtype))
            return function(*given)

        monkeypatch.setattr(module, name, noted)

    note(plain, "plain_crf")
    note(workload, "count")
    for name in ("attend", "unary", "shares"):
        note(stages, name)
    model = workload.blip_large()
    monkeypatch.setattr(workload, "blip_large", lambda: model)
    products: set[torch.dtype] = set()
    for linear in (
        model.vision_model.encoder.layers[0].mlp.fc1,
        model.text_encoder.encoder.layer[1].attention.self.key,
    ):
        linear.register_forward_hook(lambda *call: products.add(call[2].dtype))
    measure.measure("plain", dataclasses.replace(SMALL, what=what, amp="bf16"))
    assert products == {torch.bfloat16}
    if what in ("segment", "runs"):
        assert seen["plain_crf"] == {(False, torch.float32)}
        assert seen["count"] == {(False, torch.int64)}
        assert {on for on, _ in seen["unary"]} == {True}
    if what == "infoscore":
        assert {on for on, _ in seen["shares"]} == {True}


@pytest.mark.parametrize("what", ["segment", "infoscore", "tuning", "runs"])
def test_both_sides_are_warmed_up_and_repeated_equally(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    watches: dict[str, list[stopwatch.Stopwatch]] = {"ours": [], "plain": []}
    for side, times in watches.items():

        class Counted(stopwatch.Stopwatch):
            def __init__(self, device: torch.device, times: list[stopwatch.Stopwatch] = times) -> None:
                super().__init__(device)
                times.append(self)

        monkeypatch.setattr(measure, "Stopwatch", Counted)
        measure.measure(side, dataclasses.replace(SMALL, what=what, repeats=3, warm_up=2))  # pyright: ignore
    assert {side: len(times) for side, times in watches.items()} == {"ours": 5, "plain": 5}


def test_the_published_image_is_encoded_at_every_use_and_its_keys_are_computed_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Keys have batch size 1, whatever the number of prompts; each run encodes the image again."""
    model = workload.blip_large()
    monkeypatch.setattr(workload, "blip_large", lambda: model)
    encoded, keys = [], []
    model.vision_model.register_forward_hook(lambda *_: encoded.append(1))
    key = model.text_encoder.encoder.layer[1].crossattention.self.key
    key.register_forward_hook(lambda *call: keys.append(len(call[2])))
    measure.measure("plain", dataclasses.replace(SMALL, what="runs"))
    assert len(encoded) == 5
    assert keys == [1] * 5


def test_published_tuning_is_differentiated_through_the_vision_tower(monkeypatch: pytest.MonkeyPatch) -> None:
    model = workload.blip_large()
    monkeypatch.setattr(workload, "blip_large", lambda: model)
    before = {name: value.clone() for name, value in model.named_parameters()}
    measure.measure("plain", dataclasses.replace(SMALL, what="tuning"))
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None and p.grad.any()}
    assert "vision_model.encoder.layers.0.mlp.fc1.weight" in gradients
    changed = {name for name, value in model.named_parameters() if not torch.equal(value, before[name])}
    assert changed
    assert not any(name.startswith("vision_model") for name in changed)


def test_infoscore_is_timed_with_prompts_below_the_clamp(monkeypatch: pytest.MonkeyPatch) -> None:
    """On the shipped path, with logits spread as on the miniature; the random model alone has no such prompt."""
    found: list[torch.Tensor] = []
    places = infoscore._places

    def noted(crossing: torch.Tensor) -> torch.Tensor:
        found.append(crossing.flatten(1).any(1))
        return places(crossing)

    monkeypatch.setattr(infoscore, "_places", noted)
    measure.measure("ours", dataclasses.replace(SMALL, what="infoscore", batch_size=4))
    assert len(found) == 3
    assert torch.cat(found).float().mean() > 0.9


def test_the_model_alone_is_a_job_of_this_project() -> None:
    assert measure.measure("ours", dataclasses.replace(SMALL, what="nothing")).seconds == {}


def test_prompts_repeat_words_until_there_are_enough() -> None:
    prompts = workload.benchmark_prompts(Options(prompts=60))
    assert (len(prompts), len(prompts.class_names), sum(prompts.prompts_per_class)) == (60, 21, 60)
    assert len(workload.benchmark_prompts(Options(prompts=60, all_classes=True)).class_names) == 60
    with pytest.raises(UserError, match=r"--prompts 3: pascal alone has 49"):
        workload.benchmark_prompts(Options(prompts=3))


def test_peak_memory_needs_no_resource_module_on_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "resource", None)  # importing it fails
    monkeypatch.setattr(sys, "platform", "win32")
    process = SimpleNamespace(memory_info=lambda: SimpleNamespace(peak_wset=123))
    monkeypatch.setattr(psutil, "Process", lambda: process)
    assert stopwatch.peak_memory(CPU) == 123


def test_a_failing_side_prints_its_error(monkeypatch: pytest.MonkeyPatch) -> None:
    failed = SimpleNamespace(returncode=1, stderr="... out of memory\n", stdout="")
    monkeypatch.setattr(measure.subprocess, "run", lambda *_, **__: failed)
    with pytest.raises(UserError, match=r"the plain side failed: \.\.\. out of memory"):
        measure.measure_apart("plain", SMALL)


def test_a_separate_process_returns_its_measurement(capsys: pytest.CaptureFixture[str]) -> None:
    asked = json.dumps(dataclasses.asdict(SMALL))
    assert cli.run(__main__.main, ["--side", "ours", "--options", asked]) == 0
    found = Measurement(**json.loads(capsys.readouterr().out.splitlines()[-1]))
    assert list(found.seconds) == ["read", "vision", "text", "maps", "CRF", "metric"]


def test_the_table_compares_stage_by_stage() -> None:
    gib = 2**30
    formats = "float32", "bfloat16"
    plain, ours = (
        {
            n: Measurement({"read": a, "text": b}, int(peak * gib), n)
            for n, (a, b, peak) in zip(formats, side, strict=True)
        }
        for side in (((1.0, 9.0, 4), (1.0, 5.0, 3)), ((1.0, 1.5, 3), (0.5, 0.5, 2.5)))
    )
    least = {"float32": {"text": 0.5}, "bfloat16": {"text": 0.25}}
    lines = against_published.measurement_table(plain, ours, least, 2 * gib).splitlines()
    columns = lines[0].count("|")
    assert all(line.count("|") == columns for line in lines)
    assert lines[2:] == [
        "| read | 1.000 | 1.000 | 1.0 x |  | 1.000 | 0.500 | 2.0 x |  |",
        "| text | 9.000 | 1.500 | 6.0 x | 0.500 | 5.000 | 0.500 | 10.0 x | 0.250 |",
        "| **whole** | 10.00 | 2.50 | **4.0 x** | 0.50 | 6.00 | 1.00 | **6.0 x** | 0.25 |",
        "| peak, GiB | 4.00 | 3.00 | 1.3 x |  | 3.00 | 2.50 | 1.2 x |  |",
        "| of it above the model's 2.00 | 2.00 | 1.00 | 2.0 x |  | 1.00 | 0.50 | 2.0 x |  |",
    ]


def test_a_format_that_is_the_same_as_another_is_measured_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """As ``true`` is float32 where that is faster."""

    def measured(side: str, options: Options) -> Measurement:
        return Measurement({}, 2**30, {"false": "float32", "true": "float32", "bf16": "bfloat16"}[options.amp])

    monkeypatch.setattr(against_published, "measure_apart", measured)
    assert list(against_published.measure_formats(SMALL, ["false", "true", "bf16"])) == ["float32", "bfloat16"]


def test_the_published_side_uses_the_format_chosen_by_this_project(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[tuple[str, str]] = []

    def measured(side: str, options: Options) -> Measurement:
        taken.append((side, options.amp))
        numbers = {"false": "float32", "true": "float16", "fp16": "float16"}[options.amp]
        return Measurement({"text": 1.0}, 2**30 if options.what == "nothing" else 2**31, numbers)

    monkeypatch.setattr(against_published, "measure_apart", measured)
    monkeypatch.setattr(against_published, "floors", lambda *_: {})
    against_published.compare_with_published(SMALL, ["false", "true"])
    assert taken == [("ours", "false"), ("ours", "true"), ("plain", "false"), ("plain", "fp16"), ("ours", "false")]


def test_growth_measures_one_value_after_the_other(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[Options] = []

    def measured(side: str, options: Options) -> Measurement:
        asked.append(options)
        gain = {"false": 1, "true": 4}[options.amp]
        return Measurement({"text": options.batch_size / 10 / gain}, 2**30, {1: "float32", 4: "bfloat16"}[gain])

    for module in (growth, against_published):
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


def test_photos_are_timed_with_and_without_overlap(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ways: list[str] = []
    for module, name in ((photos.pipeline, "run_stages"), (photos, "one_by_one")):
        work = getattr(module, name)
        monkeypatch.setattr(module, name, lambda *given, name=name, work=work: (ways.append(name), work(*given)))
    photos.photos(dataclasses.replace(SMALL, batch_size=2, repeats=2), "false", count=3, sizes=[(40, 30)])
    assert ways == ["one_by_one", "run_stages"] * 2
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "3 photos, up to 2 at once through the model, float32"
    assert lines[-1].startswith("| 40 x 30 | ")


def test_startup_is_timed_in_new_processes(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    started: list[list[str]] = []
    monkeypatch.setattr(startup, "IMPORTS", ("json",))
    monkeypatch.setattr(startup, "_seconds", lambda arguments: started.append(arguments) or 1.0)
    startup.startup(2)
    assert [arguments[:2] for arguments in started[::2]] == [
        ["-c", "pass"],
        ["-c", "import json"],
        ["training_free_blip.py", "--help"],
        ["training_free_blip.py", "--config"],
    ]
    assert capsys.readouterr().out.splitlines()[2:4] == ["| python -c pass | 1.00 |", "| import json | 0.00 |"]


def test_startup_times_a_process_and_names_one_that_fails() -> None:
    assert startup._seconds(["-c", "pass"]) > 0
    with pytest.raises(UserError, match=r"(?s)python -c import missing failed: .*No module named 'missing'"):
        startup._seconds(["-c", "import missing"])
