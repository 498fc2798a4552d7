"""``--published``: the scripts of a checkout get the same inputs as the baseline."""

from __future__ import annotations

import dataclasses
import os
import re
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from src import cli
from src.errors import UserError
from tests.oracles.crf import plain_crf
from tests.tools.benchmark.conftest import CPU, SMALL
from tools.benchmark import __main__, against_published, measure, plain, published, stopwatch, workload
from tools.benchmark.measure import Measurement
from tools.benchmark.options import Options

# A stand-in for a checkout of the published code: same names and signatures, computed by the tests' oracles.
CHECKOUT = {
    "training_free_blip": """
        from dataclasses import dataclass
        import neighbour
        DEFAULT_CRF_CONF = {"filter_size": 15}

        @dataclass(frozen=True)
        class PromptIndex:
            prompts: list
            class_names: list
            class_to_span: dict

        def compute_unary_from_attention(
            model, attention_mask, itm_scores, prompt_index, layers, num_classes, new_embedding_res, image_size
        ):
            counts = [end - start for start, end in prompt_index.class_to_span.values()]
            assert (num_classes, new_embedding_res * 16) == (len(counts), image_size)
            logits = [neighbour.reduced(model, layer, attention_mask) for layer in layers]
            return neighbour.stages.unary(logits, itm_scores, counts, image_size)
        """,
    "compute_infoscore_blip": """
        import neighbour

        def compute_infoscore_stats_for_layer(
            model, attention_mask, itm_scores, prompt_index, layer, num_classes, new_embedding_res, image_size, eps
        ):
            assert eps == 1e-6
            logits = neighbour.reduced(model, layer, attention_mask)
            return neighbour.stages.shares(logits, itm_scores, image_size)[None]
        """,
    "one_shot_tuning_blip": """
        from tests.oracles.tuning import plain_tune

        def oneshot_tune(
            model, support_images, support_labels, input_ids, attention_mask, prompt_index, layers, num_classes,
            new_embedding_res, image_size, ignore_label, num_iterations, lr, weight_decay, use_amp,
            batch_gradient_accumulation=1,
        ):
            assert len(support_images) == len(support_labels) == batch_gradient_accumulation == 2
            counts = tuple(end - start for start, end in prompt_index.class_to_span.values())
            supports = list(zip(support_images, support_labels))
            print("loss %.6f" % plain_tune(
                model, input_ids, attention_mask, counts, supports, layers, 1, 2, lr, weight_decay
            )[0])
        """,
    "convcrf": """
        import torch
        from tests.oracles.crf import plain_crf

        class GaussCRF(torch.nn.Module):
            def __init__(self, conf, shape, nclasses=None, use_gpu=True):
                super().__init__()
                assert conf["filter_size"] == 15 and not use_gpu

            def forward(self, unary, img, num_iter=5):
                return plain_crf(unary, img, num_iter)
        """,
    "neighbour": """
        from tests.oracles import stages

        def reduced(model, layer, mask):
            logits = model.text_encoder.encoder.layer[layer].crossattention.self.get_attention_map()
            return (logits.max(1).values[:, :, 1:] * mask[:, :, None]).sum(1)
        """,
}


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with the scripts of :data:`CHECKOUT`."""
    for name, text in CHECKOUT.items():
        (tmp_path / f"{name}.py").write_text(textwrap.dedent(text))
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield tmp_path
    for name in CHECKOUT:
        sys.modules.pop(name, None)


@pytest.fixture(params=["stand-in", "PUBLISHED_CHECKOUT"])
def scripts(request: pytest.FixtureRequest, checkout: Path) -> Path:
    """The stand-in; and the published code, if the environment variable PUBLISHED_CHECKOUT names a checkout."""
    folder = os.environ.get("PUBLISHED_CHECKOUT")
    if request.param == "stand-in":
        return checkout
    if not folder:
        pytest.skip("PUBLISHED_CHECKOUT does not name a checkout of the published code")
    return Path(folder).resolve()


class Seen(stopwatch.Stopwatch):
    """A stopwatch that keeps the results of the stages."""

    def __init__(self) -> None:
        super().__init__(CPU)
        self.results: list[tuple[str, Any]] = []

    def __call__(self, stage: str, function: Any, *arguments: Any) -> Any:
        result = super().__call__(stage, function, *arguments)
        self.results.append((stage, result))
        return result

    def of(self, stage: str) -> list[Any]:
        return [result for name, result in self.results if name == stage]


@pytest.mark.parametrize("what", ["segment", "infoscore"])
def test_the_baseline_computes_what_the_scripts_compute(what: str, scripts: Path) -> None:
    """The scripts get HuggingFace's own call of the model, and the logits as the published patch saves them."""
    options = dataclasses.replace(SMALL, what=what, published=str(scripts))
    theirs, baseline = Seen(), Seen()
    published.Published(options, CPU).jobs[what](theirs, [workload.photo(0)])
    plain.Plain(options, CPU).jobs[what](baseline, [workload.photo(0)])
    assert torch.equal(theirs.of("model")[0], baseline.of("text")[0][0])
    maps, (expected,) = theirs.of("maps"), baseline.of("maps")
    if what == "infoscore":
        assert torch.equal(torch.cat(maps), torch.stack(expected))
    else:
        assert torch.equal(maps[0], expected)
        scores = theirs.of("CRF")[0]
        expected = plain_crf(expected, workload.decode_photo(workload.photo(0), 64)[None], 20)
        assert (scores - expected).abs().max() <= 1e-6 * expected.abs().max()


def test_the_baseline_tunes_as_the_scripts_tune(scripts: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = dataclasses.replace(SMALL, what="tuning", published=str(scripts))
    photos, baseline = [workload.photo(0), workload.photo(1)], Seen()
    plain.Plain(options, CPU).jobs["tuning"](baseline, photos)
    published.Published(options, CPU).jobs["tuning"](Seen(), photos)
    ((loss,),) = baseline.of("step")
    assert f"{loss:.6f}" in capsys.readouterr().out


@pytest.mark.parametrize("what", ["segment", "infoscore", "tuning", "runs"])
def test_the_scripts_of_a_checkout_take_every_stage(what: str, checkout: Path) -> None:
    options = dataclasses.replace(SMALL, what=what, published=str(checkout))
    ours, scripts = (measure.measure(side, options) for side in ("ours", "published"))
    stages_of_ours = {"model" if stage in ("vision", "text") else stage for stage in ours.seconds}
    assert set(scripts.seconds) == stages_of_ours
    assert measure.measure("published", dataclasses.replace(options, what="nothing")).seconds == {}


def test_a_checkout_is_timed_beside_both_sides(
    checkout: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """``--published`` prints a second table; a faulty checkout ends the benchmark before the long part."""
    taken: list[tuple[str, str]] = []

    def measured(side: str, options: Options) -> Measurement:
        taken.append((side, options.what))
        seconds = {"model": 6.0, "maps": 2.0} if side == "published" else {"vision": 1.0, "text": 2.0, "maps": 0.5}
        return Measurement(seconds, 2**30 if options.what == "nothing" else 2**31, "float32")

    monkeypatch.setattr(against_published, "measure_apart", measured)
    monkeypatch.setattr(against_published, "floors", lambda *_: {})
    assert cli.run(__main__.main, ["--published", str(checkout), "--amp", "false", "--device", "cpu"]) == 0
    assert taken[0] == ("published", "nothing")
    assert taken[-1] == ("published", "segment")
    assert capsys.readouterr().out.splitlines()[-6:-1] == [
        "| stage | float32: scripts, s | baseline, s | ours, s | scripts / ours |",
        "|---|---|---|---|---|",
        "| model | 6.000 | 3.000 | 3.000 | 2.0 x |",
        "| maps | 2.000 | 0.500 | 0.500 | 4.0 x |",
        "| **whole** | 8.000 | 3.500 | 3.500 | 2.3 x |",
    ]


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (lambda folder: (folder / "convcrf.py").unlink(), r"has no convcrf\.py; name a checkout of the published code"),
        (
            lambda folder: (folder / "one_shot_tuning_blip.py").unlink(),
            "has neither one_shot_tuning_blip.py nor one_shot",
        ),
        (
            lambda folder: (folder / "neighbour.py").unlink(),
            r"cannot import training_free_blip\.py: ModuleNotFoundError",
        ),
        (lambda folder: (folder / "convcrf.py").write_text(""), r"convcrf\.py has no GaussCRF; another version"),
    ],
)
def test_a_faulty_checkout_is_named(fault: Any, message: str, checkout: Path) -> None:
    fault(checkout)
    with pytest.raises(UserError, match=f"--published {re.escape(str(checkout))}: {message}"):
        published.Published(dataclasses.replace(SMALL, published=str(checkout)), CPU)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--what", "photos"], "--what photos has no published counterpart"),
        (["--model", "albef"], "--model albef: the"),
    ],
)
def test_jobs_without_a_published_counterpart_are_refused(
    given: list[str], message: str, checkout: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run(__main__.main, ["--published", str(checkout), *given]) == 2
    assert message in capsys.readouterr().err
