"""Keeping image embeddings: each image is encoded once, wherever they are kept, and no file remains."""

import os
import shutil
from collections import Counter, namedtuple
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from src.config.reader import load_config
from src.data.lists import ListEntry
from src.errors import UserError
from src.method.blip import load_blip
from src.method.prompts import build_prompts, read_class_file
from src.method.segmenter import Segmenter
from src.one_shot import embeddings as subject
from src.one_shot.embeddings import EmbeddingCache, choose_place
from src.one_shot.supports import Episode, Episodes, Support

ROOT = Path(__file__).parents[2]
GB = 10**9


class CountingEncoder:
    """Embeddings [B, 5, 3] of pixels whose value identifies the image; counts how often each was encoded."""

    def __init__(self) -> None:
        self.encoded: Counter[int] = Counter()

    def __call__(self, pixels: Tensor) -> Tensor:
        values = pixels[:, 0, 0, 0]
        self.encoded.update(values.int().tolist())
        return values[:, None, None] + torch.linspace(0, 1, 15).view(5, 3)


def files_of(indices: list[int]) -> list[Path]:
    return [Path(f"{index}.jpg") for index in indices]


def pixels_of(indices: list[int]) -> Tensor:
    return torch.tensor(indices, dtype=torch.float32).view(-1, 1, 1, 1).expand(-1, 3, 4, 4)


@pytest.mark.parametrize(("place", "times"), [("none", 3), ("memory", 1), ("disk", 1)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_kept_images_are_encoded_once_and_returned_unchanged(
    place: subject.Place, times: int, dtype: torch.dtype, tmp_path: Path
) -> None:
    encoder = CountingEncoder()
    with EmbeddingCache(encoder, place, files_of([0, 2, 4]), (5, 3), dtype, tmp_path / "kept") as cache:
        for indices in ([4], [0, 4, 2], [2, 0], [4, 2, 0], [0]):  # batches partly known, in any order
            got = cache.get(files_of(indices), pixels_of(indices))
            assert torch.equal(got, CountingEncoder()(pixels_of(indices)).to(dtype))
            got.zero_()  # callers get copies
    assert encoder.encoded == ({0: 4, 2: 3, 4: 3} if place == "none" else dict.fromkeys((0, 2, 4), times))


def test_other_images_of_a_batch_are_encoded_together_and_not_kept(tmp_path: Path) -> None:
    """The composition of a batch must not depend on what was kept before, because it changes rounding."""
    encoder, together = CountingEncoder(), []

    def encode(pixels: Tensor) -> Tensor:
        together.append(pixels[:, 0, 0, 0].int().tolist())
        return encoder(pixels)

    with EmbeddingCache(encode, "memory", files_of([2]), (5, 3), torch.float32, tmp_path) as cache:
        for _ in range(2):
            got = cache.get(files_of([0, 2, 4]), pixels_of([0, 2, 4]))
            assert torch.equal(got, CountingEncoder()(pixels_of([0, 2, 4])))
    assert together == [[0, 4], [2], [0, 4]]


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="looks at the open files of the process")
def test_the_file_on_disk_is_reserved_and_unnamed(tmp_path: Path) -> None:
    """It vanishes when its process ends in any way; a full disk is reported immediately, not by a bus error later."""
    (tmp_path / ".image_embeddings.abc").touch()  # remains of a killed process

    def open_files() -> list[Path]:
        links = [path for path in Path("/proc/self/fd").iterdir() if path.is_symlink()]
        return [path for path in links if os.readlink(path).startswith(str(tmp_path))]

    with EmbeddingCache(CountingEncoder(), "disk", files_of([0, 1, 2]), (5, 3), torch.float32, tmp_path) as cache:
        assert not list(tmp_path.iterdir())
        file = open_files()[0]  # again, by the memory map
        assert file.stat().st_size == 3 * 5 * 3 * 4
        assert file.stat().st_blocks > 0  # reserved, not sparse
        cache.get(files_of([1]), pixels_of([1]))
    assert not open_files()


def test_an_unwritable_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"cache.dir .*file/in cannot be written to"):
        EmbeddingCache(CountingEncoder(), "disk", files_of([0, 1, 2]), (5, 3), torch.float32, tmp_path / "file" / "in")


FreeSpace = Callable[[float, float], None]


@pytest.fixture
def free(monkeypatch: pytest.MonkeyPatch) -> FreeSpace:
    """Pretend that so much memory and disk space is free, in GB."""

    def pretend(memory: float, disk: float) -> None:
        state = namedtuple("state", "available free")(memory * GB, disk * GB)
        monkeypatch.setattr(subject.psutil, "virtual_memory", lambda: state)
        monkeypatch.setattr(shutil, "disk_usage", lambda _: state)

    return pretend


@pytest.mark.parametrize(
    ("wanted", "memory", "disk", "place"),
    [
        ("auto", 21, 0, "memory"),
        ("auto", 19, 21, "disk"),
        ("auto", 19, 19, "none"),
        ("none", 100, 100, "none"),
        ("memory", 11, 0, "memory"),  # an explicit choice is used if it fits
        ("disk", 100, 11, "disk"),
    ],
)
def test_auto_chooses_where_to_keep_10_gb(
    wanted: str,
    memory: float,
    disk: float,
    place: str,
    free: FreeSpace,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    free(memory, disk)
    assert choose_place(wanted, 10 * GB, tmp_path / "not" / "there") == place
    said = capsys.readouterr().out
    assert "10.00 GB" in said
    assert f"kept: {place}" in said
    assert not list(tmp_path.iterdir())  # deciding makes no folders


@pytest.mark.parametrize(("on_device", "place"), [(21, "device"), (19, "memory"), (None, "memory")])
def test_a_gpu_keeps_what_fits_into_half_of_its_memory(
    on_device: int | None, place: str, free: FreeSpace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    free(100, 100)
    room = None if on_device is None else on_device * GB
    assert choose_place("auto", 10 * GB, tmp_path, room) == place
    assert ("of the GPU" in capsys.readouterr().out) is (on_device is not None)
    with pytest.raises(UserError, match=r"cache\.image_embeddings: device needs 200\.0 GB on it"):
        choose_place("device", 200 * GB, tmp_path, room)


@pytest.mark.parametrize(("wanted", "memory", "disk"), [("memory", 9, 100), ("disk", 100, 9)])
def test_a_location_without_enough_room_is_refused(
    wanted: str, memory: float, disk: float, free: FreeSpace, tmp_path: Path
) -> None:
    free(memory, disk)
    with pytest.raises(UserError, match=rf"cache.image_embeddings: {wanted} needs 10.0 GB"):
        choose_place(wanted, 10 * GB, tmp_path)


def episodes_of(*runs: tuple[list[int], list[int]]) -> Episodes:
    """Runs as pairs of supports and queries, indices into one list."""
    entries = [ListEntry(Path(f"{number}.jpg"), None) for number in range(6)]
    drawn = [Episode([Support(index, 1) for index in supports], queries) for supports, queries in runs]
    return Episodes(entries, entries, drawn)


@pytest.mark.parametrize("amp", ["false", "bf16"])
def test_only_images_used_again_are_kept(amp: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = load_config(ROOT / "tests" / "golden_one_shot.yaml", [f"runtime.amp={amp}", f"cache.dir={tmp_path}"])
    blip = load_blip(config.model.name, torch.device("cpu"))
    classes = read_class_file(ROOT / config.class_name_dir, 7)
    segmenter = Segmenter.from_config(config, blip, build_prompts(classes, False), config.model.layers)
    # 0 is a query of the second run, 2 a support of both, 5 a support once; 1, 3 and 4 are looked at with both at once
    episodes = episodes_of(([0, 2, 5], [1, 3, 4]), ([2], [0, 1, 3, 4]))
    pixels = torch.rand(6, 3, config.model.image_size, config.model.image_size)
    files = [entry.image for entry in episodes.evaluation_list]
    with EmbeddingCache.for_runs(config, segmenter, episodes) as cache:
        encoded = []
        encode = cache.encode
        cache.encode = lambda pixels: encoded.append(len(pixels)) or encode(pixels)
        first, again = cache.get(files, pixels), cache.get(files, pixels)
    assert encoded == [4, 1, 1, 4]
    assert torch.equal(first, again)
    assert "kept: memory" in capsys.readouterr().out
    with EmbeddingCache.for_runs(config, segmenter, episodes_of(([0], [1, 2]))) as cache:
        assert cache.place == "none"
    assert not capsys.readouterr().out  # nothing is kept
