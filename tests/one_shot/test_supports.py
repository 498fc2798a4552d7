"""Drawing supports: the same images in the same order as the published code, for the same lists."""

import json
import random
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import one_shot_blip
from src.config.reader import load_config
from src.config.schema import Config, OneShotConfig
from src.data.lists import ListEntry, evaluation_entries
from src.errors import UserError
from src.one_shot.supports import (
    SEED,
    Support,
    choose_supports,
    class_areas,
    find_candidates,
    find_queries,
    only_class,
    read_episodes,
)
from tests.oracles.tuning import plain_draw

ROOT = Path(__file__).parents[2]
GOLDEN = ROOT / "tests" / "golden" / "pascal"


def random_masks(rng: np.random.Generator, images: int, num_classes: int) -> list[np.ndarray]:
    """Masks of differing sizes: blocks of a few classes, some ignored pixels, some with background alone."""
    masks = []
    for _ in range(images):
        mask = np.zeros(rng.integers(8, 24, size=2), dtype=np.uint8)
        for _ in range(rng.integers(0, 4)):
            top, left = rng.integers(0, 8, size=2)
            height, width = rng.integers(1, 12, size=2)
            mask[top : top + height, left : left + width] = rng.integers(1, num_classes)
        mask[:1, : rng.integers(0, 8)] = 255
        masks.append(mask)
    return masks


def areas_of(masks: list[np.ndarray], num_classes: int) -> np.ndarray:
    return np.array([[(mask == label).sum() for label in range(num_classes)] for mask in masks])


@pytest.mark.parametrize("only_one", [True, False])
@pytest.mark.parametrize("shot", [1, 2, 5])
def test_supports_equal_the_plain_description(only_one: bool, shot: int) -> None:
    num_classes, min_area, cases, fallbacks = 4, 20, 0, 0
    settings = OneShotConfig(shot=shot, min_support_area=min_area)
    for seed in range(40):
        masks = random_masks(np.random.default_rng(seed), images=12 + seed, num_classes=num_classes)
        areas = areas_of(masks, num_classes)
        try:
            candidates = find_candidates(areas, settings, ["background", "a", "b", "c"])
        except UserError:
            continue
        ours, theirs = random.Random(SEED), random.Random(1)
        for _ in range(3):  # runs continue one stream of random numbers
            asked: list[int] = []

            def qualifies(index: int, label: int, areas: np.ndarray = areas, asked: list[int] = asked) -> bool:
                asked.append(index)
                return not only_one or only_class(areas, index, label)

            drawn = choose_supports(candidates, shot, qualifies, ours)
            expected, looked_at = plain_draw(masks, num_classes, shot, min_area, only_one, theirs)
            assert [(s.index, s.label, s.isolated) for s in drawn] == expected
            assert asked == looked_at
            fallbacks += sum(s.isolated for s in drawn)
        cases += 1
        assert find_queries(areas) == [n for n, mask in enumerate(masks) if set(np.unique(mask)) - {0, 255}]
    assert cases > (10 if shot < 5 else 30)  # also lists with fewer candidates than shots
    assert fallbacks > 0 if only_one or shot > 1 else fallbacks == 0  # both ways of drawing were tested


def test_supports_equal_the_random_module_seeded_with_1() -> None:
    state = random.getstate()
    try:
        random.seed(1)
        order = list(range(10))
        random.shuffle(order)
    finally:
        random.setstate(state)
    drawn = choose_supports([range(100, 110)], 10, lambda *_: True, random.Random(SEED))
    assert [support.index for support in drawn] == [100 + place for place in order]


def test_drawing_leaves_the_random_module_alone() -> None:
    state = random.getstate()
    choose_supports([[0, 1], [2, 3]], 1, lambda *_: False, random.Random(SEED))
    assert random.getstate() == state


def test_missing_shots_are_filled_with_isolated_images() -> None:
    drawn = choose_supports([[4, 5, 6]], 3, lambda index, _: index == 5, random.Random(0))
    assert drawn[0] == Support(5, 1, isolated=False)
    assert len(drawn) == 3
    assert all(support.isolated and support.index in (4, 5, 6) for support in drawn[1:])


def test_only_class_ignores_background_and_ignored_pixels() -> None:
    masks = [np.array([[0, 2], [255, 2]]), np.array([[1, 2]]), np.array([[1, 1]]), np.array([[0, 255]])]
    areas = areas_of(masks, 3)
    assert [only_class(areas, n, 2) for n in range(4)] == [True, False, False, False]
    assert [only_class(areas, n, 1) for n in range(4)] == [False, False, True, False]


def test_areas_are_counted_at_native_size(tmp_path: Path) -> None:
    config = load_config(ROOT / "tests" / "golden_one_shot.yaml")
    mask = np.zeros((700, 900), dtype=np.uint8)
    mask[:16, :] = 6
    mask[-1, :] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    areas = class_areas([ListEntry(tmp_path / "image.png", tmp_path / "mask.png")], config, "masks")
    assert areas.tolist() == [[683 * 900, 0, 0, 0, 0, 0, 16 * 900]]


def test_the_smallest_area_of_a_candidate_counts() -> None:
    areas = np.array([[0, 16383], [0, 16384], [0, 20000]])
    assert find_candidates(areas, OneShotConfig(), ["background", "bird"]) == [[1, 2]]


def test_a_class_with_fewer_candidates_than_shots_repeats_images_and_is_named(
    capsys: pytest.CaptureFixture[str],
) -> None:
    areas = np.array([[5, 20000, 0], [5, 20000, 20000], [5, 20000, 20000]])
    names = ["background", "bird", "boat"]
    assert find_candidates(areas, OneShotConfig(shot=2), names) == [[0, 1, 2], [1, 2]]
    assert capsys.readouterr().err == ""
    candidates = find_candidates(areas, OneShotConfig(shot=3), names)
    assert candidates == [[0, 1, 2], [1, 2]]
    assert "fewer candidates than oneshot.shot = 3: boat has 2; " in capsys.readouterr().err
    drawn = choose_supports(candidates, 3, lambda index, label: True, random.Random(SEED))
    boats = [support for support in drawn if support.label == 2]
    assert [support.isolated for support in boats] == [False, False, True]
    assert {support.index for support in boats} == {1, 2}


def test_many_classes_with_few_candidates_are_counted(capsys: pytest.CaptureFixture[str]) -> None:
    find_candidates(np.full((1, 9), 20000), OneShotConfig(shot=2), [f"c{label}" for label in range(9)])
    assert "c1 has 1, c2 has 1, c3 has 1, c4 has 1, c5 has 1 and 3 more classes;" in capsys.readouterr().err


def test_a_class_without_candidates_is_refused() -> None:
    with pytest.raises(UserError, match=r"class 1 \(bird\) .*min_support_area = 16384.* in no image"):
        find_candidates(np.array([[7, 16383]]), OneShotConfig(), ["background", "bird"])


def test_a_class_absent_from_all_masks_is_refused() -> None:
    """As in masks of 0 and 255: they have no class 1, whatever the minimum area."""
    with pytest.raises(UserError, match=r"class 1 \(bird\) has no pixel in the masks .*mask value 255 is ignored"):
        find_candidates(np.array([[7, 0], [9, 0]]), OneShotConfig(), ["background", "bird"])


def test_the_draws_of_a_configuration_are_the_published_ones() -> None:
    config = load_config(ROOT / "tests" / "golden_one_shot.yaml")
    episodes = read_episodes(config, [str(n) for n in range(7)])
    published = json.loads((GOLDEN / "expected.json").read_text())["one_shot"]["runs"]
    for episode, run in zip(episodes, published, strict=True):
        names = [f"class {n}" for n in range(7)]
        described = [support.describe(episodes.support_list, names) for support in episode.supports]
        assert [entry["class"] for entry in described] == [f"class {n}" for n in range(1, 7)]
        names = [Path(str(entry["image"])).name for entry in described]
        read = iter(run["images_read_in_order"])
        assert all(name in read for name in names)  # in that order
        assert len(episode.queries) == run["n_query"]
        assert not {support.index for support in episode.supports} & set(episode.queries)
    drawn = [{support.index for support in episode.supports} for episode in episodes]
    assert episodes.queries == sorted(set(range(24)) - (drawn[0] & drawn[1]))
    assert len(episodes.supports) == 12


def test_draws_the_published_supports() -> None:
    config = load_config(ROOT / "tests" / "golden_one_shot.yaml")
    assert config.oneshot is not None
    entries = evaluation_entries(config)
    areas = class_areas(entries, config, "masks")
    candidates = find_candidates(areas, config.oneshot, [str(n) for n in range(7)])
    queries, rng = find_queries(areas), random.Random(SEED)
    for run in json.loads((GOLDEN / "expected.json").read_text())["one_shot"]["runs"]:
        read: list[str] = []

        def qualifies(index: int, label: int, read: list[str] = read) -> bool:
            read.append(entries[index].image.name)
            return only_class(areas, index, label)

        drawn = choose_supports(candidates, 1, qualifies, rng)
        assert read == run["images_read_in_order"]
        assert len(drawn) == run["n_support"]
        assert len(set(queries) - {support.index for support in drawn}) == run["n_query"]


def lists_of(tmp_path: Path, masks: list[np.ndarray], name: str = "list.txt") -> str:
    """Write masks and a list of them; returns the path of the list."""
    lines = []
    for number, mask in enumerate(masks):
        Image.fromarray(mask).save(tmp_path / f"{name}{number}.png")
        lines.append(f"{number}.jpg {name}{number}.png\n")
    (tmp_path / name).write_text("".join(lines))
    return str(tmp_path / name)


def two_class_masks() -> list[np.ndarray]:
    """Six masks: both classes in the first three, class 1 alone in the next two, class 2 alone in the last."""
    masks = [np.ones((40, 40), np.uint8) for _ in range(6)]
    for mask in masks[:3]:
        mask[20:] = 2
    masks[5][:] = 2
    return masks


def coco_config(tmp_path: Path, *overrides: str) -> Config:
    settings = [f"data_root={tmp_path}", f"oneshot.test_list={tmp_path / 'list.txt'}", "oneshot.min_support_area=1"]
    return load_config(ROOT / "configs" / "coco_blip_one_shot.yaml", [*settings, "dataset.num_classes=3", *overrides])


def test_supports_come_from_the_whole_list_and_the_limit_applies_to_the_rest(tmp_path: Path) -> None:
    masks = two_class_masks()
    lists_of(tmp_path, masks)
    episodes = read_episodes(coco_config(tmp_path, "max_images=3"), ["background", "a", "b"])
    rng = random.Random(1)
    for episode in episodes:
        drawn, _ = plain_draw(masks, 3, 1, 1, True, rng)
        assert [(s.index, s.label, s.isolated) for s in episode.supports] == drawn
        assert episode.supports[0].index in (3, 4)  # class 1 is isolated only after the limit
        assert episode.supports[1].index == 5
        assert episode.queries == [0, 1, 2]


def test_supports_and_images_without_a_class_do_not_count_towards_the_limit(tmp_path: Path) -> None:
    masks = [two_class_masks()[n] for n in (3, 5, 0, 0, 0)]
    masks.insert(0, np.zeros((40, 40), np.uint8))
    lists_of(tmp_path, masks)
    for episode in read_episodes(coco_config(tmp_path, "max_images=2"), ["background", "a", "b"]):
        assert [support.index for support in episode.supports] == [1, 2]
        assert episode.queries == [3, 4]


def test_the_limit_does_not_shorten_a_train_list(tmp_path: Path) -> None:
    lists_of(tmp_path, two_class_masks()[:3])
    train = lists_of(tmp_path, two_class_masks(), "train.txt")
    overrides = [f"oneshot.train_list={train}", "oneshot.use_training_images_for_supports=true", "max_images=2"]
    for episode in read_episodes(coco_config(tmp_path, *overrides), ["background", "a", "b"]):
        assert episode.supports[0].index in (3, 4)
        assert episode.supports[1].index == 5
        assert episode.queries == [0, 1]


def test_a_support_that_occurs_twice_in_the_list_is_no_query(tmp_path: Path) -> None:
    lists_of(tmp_path, two_class_masks())
    lines = (tmp_path / "list.txt").read_text().splitlines()
    (tmp_path / "list.txt").write_text("\n".join([*lines, *lines, f"./{lines[5]}"]))
    episodes = read_episodes(coco_config(tmp_path), ["background", "a", "b"])
    for episode in episodes:
        supports = {episodes.support_list[support.index].image for support in episode.supports}
        queries = [episodes.evaluation_list[index].image for index in episode.queries]
        assert len(supports) == 2
        assert not supports & set(queries)
        assert len(queries) == 2 * 4  # other images are scored as often as they occur


def test_a_support_from_a_train_list_is_no_query(tmp_path: Path) -> None:
    masks = two_class_masks()
    lists_of(tmp_path, masks)
    lines = (tmp_path / "list.txt").read_text().splitlines()
    (tmp_path / "train.txt").write_text("\n".join(lines[3:]))
    settings = [f"oneshot.train_list={tmp_path / 'train.txt'}", "oneshot.use_training_images_for_supports=true"]
    for episode in read_episodes(coco_config(tmp_path, *settings), ["background", "a", "b"]):
        taken = {3 + support.index for support in episode.supports}
        assert set(episode.queries) == set(range(6)) - taken


def test_areas_do_not_keep_masks_in_memory(tmp_path: Path) -> None:
    """Areas of a list of 40,000 masks need memory for the numbers alone."""
    lists_of(tmp_path, two_class_masks())
    config = coco_config(tmp_path)
    areas = class_areas(evaluation_entries(config), config, "masks")
    assert areas.base is None
    assert (areas.dtype, areas.nbytes) == (np.int64, 6 * 3 * 8)


def test_a_limit_applies_to_the_queries(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        one_shot_blip.main(["--help"])
    assert "score only the first N queries of every run" in " ".join(capsys.readouterr().out.split())
