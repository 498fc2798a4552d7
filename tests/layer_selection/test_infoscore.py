"""InfoScore against its definition on full-size maps, and against numbers of the published implementation."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from src.config.reader import load_config
from src.config.schema import Config
from src.data.lists import evaluation_entries
from src.errors import UserError
from src.layer_selection import infoscore as subject
from src.layer_selection.infoscore import COLUMNS, InfoScore, LayerScores, prompt_shares
from src.layer_selection.ranking import rank_layers, ranking_segmenter
from src.method.blip import load_blip
from src.method.prompts import read_class_file
from tests.oracles.infoscore import plain_layer_scores, plain_prompt_shares
from tests.rounding import rounding, roundings_of_blip

ROOT = Path(__file__).parents[2]
GOLDEN = ROOT / "tests" / "golden" / "pascal"


def maps_like_the_method(batch: int, prompts: int, grid: int, sharpness: float, seed: int = 0) -> Tensor:
    """Prompt maps of a layer: softmax over prompts at each patch, times the matching score."""
    generator = torch.Generator().manual_seed(seed)
    logits = sharpness * torch.randn(batch, prompts, grid * grid, generator=generator)
    return logits.softmax(1) * torch.rand(batch, prompts, 1, generator=generator)


@pytest.mark.parametrize("sharpness", [0.5, 3.0, 12.0])  # at 12 most prompts fall below the clamp somewhere
@pytest.mark.parametrize(("batch", "prompts", "grid", "size"), [(1, 2, 1, 16), (1, 13, 4, 64), (3, 7, 5, 40)])
def test_shares_without_full_size_maps_equal_the_definition(
    batch: int, prompts: int, grid: int, size: int, sharpness: float
) -> None:
    maps = maps_like_the_method(batch, prompts, grid, sharpness)
    expected = plain_prompt_shares(maps, size)
    torch.testing.assert_close(prompt_shares(maps, size).double(), expected, rtol=1e-6, atol=0)


def test_upsampling_changes_the_shares() -> None:
    """The mean over patches differs: aligned corners give border patches less weight."""
    maps = maps_like_the_method(1, 6, 4, 3.0)
    over_patches = (maps / maps.sum(1, keepdim=True)).mean(2)
    assert (prompt_shares(maps, 64) - over_patches).abs().max() > 1e-3


@pytest.mark.parametrize("place", ["everywhere", "in one image", "in one corner"])
def test_shares_below_the_clamp_count_as_the_clamp(place: str) -> None:
    maps = maps_like_the_method(3, 5, 4, 1.0)
    if place == "everywhere":
        maps[:, 2] *= 1e-9  # itm of a prompt that matches nothing in the image
    elif place == "in one image":
        maps[1, 2] *= 1e-9
    else:
        maps[1, 2, -1] = 0.0
        maps[1, 2, -2] *= 1e-7
    shares = prompt_shares(maps, 48)
    torch.testing.assert_close(shares.double(), plain_prompt_shares(maps, 48), rtol=1e-6, atol=0)
    unclamped = plain_prompt_shares(maps, 48, clamp=0.0)
    assert (shares / unclamped)[1, 2] > 1 + 1e-9  # otherwise the clamp would not be tested
    if place == "everywhere":
        torch.testing.assert_close(shares[:, 2], torch.full((3,), 1e-6))


def test_a_prompt_that_falls_below_the_clamp_only_where_the_others_are_strong() -> None:
    """Its maps exceed the clamp times the smallest sum over prompts, but its share is below the clamp."""
    weak = torch.full((1, 1, 16), 3e-7)
    strong = torch.full((1, 1, 16), 0.1)
    strong[..., :6] = 1.0
    maps = torch.cat([weak, strong], 1)
    unclamped = plain_prompt_shares(maps, 48, clamp=0.0)
    assert plain_prompt_shares(maps, 48)[0, 0] > 1.1 * unclamped[0, 0]
    torch.testing.assert_close(prompt_shares(maps, 48).double(), plain_prompt_shares(maps, 48), rtol=1e-6, atol=0)


@pytest.mark.parametrize("bias", [-12.0, -16.0, -20.0])
def test_the_sum_over_prompts_is_clamped_where_all_matching_scores_are_near_zero(bias: float) -> None:
    """As published. The matching head's bias takes sums to about 6e-6, 1e-7 and 2e-9."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(3, 7, 25, generator=generator)
    itm = (torch.randn(3, 7, generator=generator) + bias).sigmoid()
    maps = logits.softmax(1) * itm[..., None]
    shares = prompt_shares(maps, 40)
    torch.testing.assert_close(shares.double(), plain_prompt_shares(maps, 40), rtol=1e-6, atol=0)
    by_hand = maps.double().sum(1).mean() / 1e-6  # where the clamp applies everywhere, it is the divisor
    if bias < -12:
        assert float(shares.sum(1).mean()) == pytest.approx(float(by_hand), rel=0.5)
        assert (shares.sum(1) < 0.9).all()
    else:
        torch.testing.assert_close(shares.sum(1), torch.ones(3))


@pytest.mark.parametrize(("grid", "size"), [(1, 16), (2, 32), (3, 48), (4, 64), (5, 80), (14, 224), (5, 41), (7, 50)])
def test_every_pixel_is_in_one_cell(grid: int, size: int) -> None:
    """Cells of unequal size; corners weigh a pixel as upsampling does."""
    maps = torch.rand(2, 3, grid * grid, generator=torch.Generator().manual_seed(0))
    cells = subject._Cells.of(maps, size)
    assert cells.pixels.sum() == size**2
    place = torch.arange(size**2.0).view(1, size, size)
    inside = cells.inside[:, None, :, None] * cells.inside[:, None]
    assert sorted(cells.cut(place)[0][inside.bool()].tolist()) == list(range(size**2))
    square = subject._corners(maps)
    corners = square.unfold(2, 2, 1).unfold(3, 2, 1)  # [B, P, Q, Q, 2, 2]
    full_size = torch.einsum("amx,bny,ipabxy->ipabmn", cells.weights, cells.weights, corners)
    expected = torch.stack([cells.cut(each) for each in subject.upsample(maps, size)])
    torch.testing.assert_close(full_size, expected * inside, rtol=1e-5, atol=1e-6)


def test_only_cells_where_a_prompt_may_cross_the_clamp_are_upsampled(monkeypatch: pytest.MonkeyPatch) -> None:
    crossing: list[int] = []
    places = subject._places
    monkeypatch.setattr(subject, "_places", lambda given: crossing.append(int(given.sum())) or places(given))
    maps = maps_like_the_method(2, 9, 4, 1.0)
    prompt_shares(maps, 32)
    maps[1, [3, 5]] *= 1e-9  # below the clamp everywhere
    prompt_shares(maps, 32)
    maps[0, 2, 0] = 0  # a corner of the image: one of nine cells
    prompt_shares(maps, 32)
    assert crossing == [0, 0, 1]


@pytest.mark.parametrize("together", [1, 3, 1000])
def test_cells_are_upsampled_in_chunks_with_the_same_result(together: int, monkeypatch: pytest.MonkeyPatch) -> None:
    layers = [maps_like_the_method(3, 7, 5, sharpness) for sharpness in (0.5, 12.0, 6.0)]
    whole = [prompt_shares(maps, 40) for maps in layers]
    monkeypatch.setattr(subject, "CROSSING_BYTES", 4 * 10 * 10 * together)
    for got, maps in zip(whole, layers, strict=True):
        assert torch.equal(got, prompt_shares(maps, 40))
        torch.testing.assert_close(got.double(), plain_prompt_shares(maps, 40), rtol=1e-6, atol=0)


def test_all_layers_at_once_equal_one_by_one() -> None:
    """A GPU gets all layers in one call, the CPU one after the other."""
    layers = [maps_like_the_method(3, 7, 5, sharpness) for sharpness in (0.5, 12.0, 6.0)]
    together = prompt_shares(torch.cat(layers), 40).unflatten(0, (3, 3))
    assert torch.equal(together, torch.stack([prompt_shares(maps, 40) for maps in layers]))


def scored(layers: list[Tensor], batch: int, size: int) -> LayerScores:
    """InfoScore of per-layer maps [images, P, N], fed in batches."""
    collected = InfoScore(range(len(layers)), size)
    for first in range(0, len(layers[0]), batch):
        for layer, maps in enumerate(layers):
            collected.update(layer, maps[first : first + batch])
        assert collected.running_ranking() == collected.scores().ranking
    assert collected.images == len(layers[0])
    return collected.scores()


@pytest.mark.parametrize("batch", [1, 2, 5])
def test_scores_equal_the_definition_in_any_batches(batch: int) -> None:
    layers = [maps_like_the_method(5, 7, 3, sharpness, seed) for seed, sharpness in enumerate((0.3, 2.0, 9.0))]
    got, expected = scored(layers, batch, 24), plain_layer_scores(layers, 24)
    for name in ("mean_image_entropy", "dataset_entropy", "entropy_ratio", "cov", "infoscore"):
        np.testing.assert_allclose(getattr(got, name).numpy(), expected[name], rtol=2e-5, err_msg=name)
    assert got.ranking == np.argsort(-expected["infoscore"]).tolist()


def test_the_coefficient_of_variation_divides_by_the_number_of_images() -> None:
    """Two images that swap their two prompts: shares a and b, mean 1/2, population std |a - b| / 2 for each prompt."""
    maps = torch.tensor([[[0.75] * 4, [0.25] * 4], [[0.25] * 4, [0.75] * 4]])
    scores = scored([maps], 1, 8)
    assert float(scores.cov) == pytest.approx(2 * (0.25 / 0.5))
    assert float(scores.dataset_entropy) == pytest.approx(np.log(2))
    assert float(scores.mean_image_entropy) == pytest.approx(-0.75 * np.log(0.75) - 0.25 * np.log(0.25))


def test_without_images_there_are_no_scores() -> None:
    with pytest.raises(ValueError, match="at least one image"):
        InfoScore((0, 1), 16).scores()
    with pytest.raises(ValueError, match="at least one image"):
        InfoScore((0, 1), 16).running_ranking()


def test_ranking_rows_and_top() -> None:
    scores = LayerScores(
        (0, 1, 2, 3),
        mean_image_entropy=torch.tensor([1.0, 2.0, 1.0, 0.5], dtype=torch.float64),
        dataset_entropy=torch.tensor([2.0, 2.0, 2.0, 2.0], dtype=torch.float64),
        cov=torch.tensor([3.0, 4.0, 3.0, 5.0], dtype=torch.float64),
    )
    assert scores.infoscore.tolist() == [6, 4, 6, 20]
    assert scores.ranking == [3, 0, 2, 1]  # layers 0 and 2 tie: layer order decides
    assert scores.top(1) == [3]
    assert scores.top(3) == [0, 2, 3]
    assert COLUMNS == (
        "layer",
        "mean_image_entropy",
        "dataset_entropy",
        "entropy_ratio",
        "cov",
        "infoscore",
        "rank",
    )
    assert scores.rows() == [
        (0, 1.0, 2.0, 2.0, 3.0, 6.0, 2),
        (1, 2.0, 2.0, 1.0, 4.0, 4.0, 4),
        (2, 1.0, 2.0, 2.0, 3.0, 6.0, 3),
        (3, 0.5, 2.0, 4.0, 5.0, 20.0, 1),
    ]


def test_layer_numbers_are_preserved() -> None:
    maps = [maps_like_the_method(4, 5, 3, sharpness, seed=1) for sharpness in (0.3, 9.0)]
    infoscore = InfoScore((1, 3), 24)
    for layer, own in zip((1, 3), maps, strict=True):
        infoscore.update(layer, own)
    scores = infoscore.scores()
    assert scores.ranking == infoscore.running_ranking() == [3, 1]
    assert scores.top(1) == [3]
    assert [(row[0], row[-1]) for row in scores.rows()] == [(1, 2), (3, 1)]


def test_the_running_ranking_costs_the_same_after_every_image(monkeypatch: pytest.MonkeyPatch) -> None:
    """Counted in entropies of shares: recomputing those of all images would take thousands of times as many."""
    images, prompts = 300, 6
    taken: list[int] = []
    entropy = subject.entropy
    monkeypatch.setattr(subject, "entropy", lambda shares: taken.append(shares.numel()) or entropy(shares))
    infoscore = InfoScore((0, 1), 16)
    maps = maps_like_the_method(images, prompts, 2, 3.0)
    for image in maps:
        for layer in (0, 1):
            infoscore.update(layer, image[None])
        infoscore.running_ranking()
    assert sum(taken) <= 2 * (2 * prompts) * images


def golden_config(*overrides: str) -> Config:
    return load_config(ROOT / "tests" / "golden_training_free.yaml", list(overrides))


@pytest.mark.parametrize(("attention", "batch"), [("exact", 1), ("fused", 1), ("fused", 5)])
def test_reproduces_the_published_implementation(attention: str, batch: int) -> None:
    config = golden_config(f"runtime.attention={attention}", f"dataloader.batch_size={batch}")
    blip = load_blip(config.model.name, torch.device("cpu"), attention == "fused")
    classes = read_class_file(GOLDEN / "classes.json", config.dataset.num_classes)
    segmenter = ranking_segmenter(config, blip, classes)
    scores = rank_layers(segmenter, evaluation_entries(config, masks=False), config)
    expected = json.loads((GOLDEN / "expected.json").read_text())["infoscore"]
    expected["entropy_ratio"] = np.divide(expected["dataset_entropy"], expected["mean_image_entropy"])
    with np.load(GOLDEN / "expected.npz") as file:
        largest = float(np.abs(file["single_attn"]).max())
    # An error of a logit is one of the logarithm of a share; the scores are means of those over patches and images.
    patches = segmenter.num_patches
    terms = roundings_of_blip(blip.model.config, patches, segmenter.input_ids.shape[1])
    tolerance = rounding(terms) * largest / (patches * 24) ** 0.5
    for name in COLUMNS[1:-1]:
        np.testing.assert_allclose(getattr(scores, name).numpy(), expected[name], rtol=tolerance, err_msg=name)
    assert scores.ranking == expected["ranking"]


def test_attention_that_is_not_finite_is_refused() -> None:
    infoscore = InfoScore(range(3), 16)
    maps = torch.rand(2, 4, 9, generator=torch.Generator().manual_seed(0))
    for layer in range(3):
        infoscore.update(layer, maps if layer != 1 else maps * torch.nan)
    for score in (infoscore.scores, infoscore.running_ranking):
        with pytest.raises(UserError, match=r"layers \[1\] is not a number"):
            score()
