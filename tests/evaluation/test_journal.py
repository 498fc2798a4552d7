"""The journal of a run: what is kept, what a resumed run uses, and what is printed."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from src import runtime
from src.config.schema import Config, DataloaderConfig
from src.data.dataset import Batch, SegmentationDataset
from src.data.lists import ListEntry, evaluation_entries
from src.errors import UserError
from src.evaluation import journal as subject
from src.evaluation import loop, processes
from src.evaluation.identity import fingerprint
from src.evaluation.journal import SETTINGS, Journal, differences
from src.evaluation.loop import Arrays, Evaluator, Pass
from src.evaluation.records import Record, read_records
from src.screen import note_once
from tests import tiny

SETTINGS_OF_A_RUN = {"experiment": "training-free", "crf": {"iters": 20}, "model": {"layers": [0, 3]}}
SIZES = [(20 + number, 30) for number in range(7)]


@pytest.fixture(autouse=True)
def no_delay(monkeypatch: pytest.MonkeyPatch) -> None:
    """Records are written immediately, and notes are not suppressed between tests."""
    note_once.cache_clear()
    monkeypatch.setattr(subject, "FLUSH_SECONDS", 0.0)


@pytest.fixture
def dataset(make_config: Callable[..., Config], data_root: Path) -> SegmentationDataset:
    tiny.make_data(data_root, SIZES)
    config = make_config(model={"image_size": 16})
    return SegmentationDataset.from_config(evaluation_entries(config), config)


def opened(folder: Path, changes: dict | None = None, **options: bool) -> Journal:
    return Journal(folder / "iou.csv", {**SETTINGS_OF_A_RUN, **(changes or {})}, **options)


class Outcome(NamedTuple):
    blocks: dict[int, Arrays]
    done: Pass

    @property
    def skipped(self) -> list[dict[str, str]]:
        return self.done.skipped


class Sums(Evaluator[Outcome]):
    """Sums each image's pixels. Can fail at an image, and records the images it processed."""

    def __init__(self, stop_at: int | None = None, reason: BaseException | None = None) -> None:
        super().__init__(torch.device("cpu"), "summing")
        self.seen: list[int] = []
        self.stop_at, self.reason = stop_at, reason or KeyboardInterrupt()
        self.blocks: dict[int, Arrays] = {}

    def process(self, batch: Batch) -> Arrays:
        if self.stop_at in batch.indices:
            raise self.reason
        self.seen += batch.indices
        return {"sums": batch.pixels.double().sum((1, 2, 3)), "indices": torch.tensor(batch.indices)}

    def merge(self, one: Arrays, other: Arrays) -> Arrays:
        return {name: torch.cat([one[name], other[name]]) for name in one}

    def add(self, block: int, arrays: Arrays) -> None:
        assert block not in self.blocks  # each counts once
        self.blocks[block] = arrays

    def result(self, done: Pass) -> Outcome:
        return Outcome(dict(sorted(self.blocks.items())), done)


def run(journal: Journal, dataset: SegmentationDataset, sums: Sums, size: int = 2, weights: str = "") -> Outcome:
    return loop.run(sums, dataset, DataloaderConfig(batch_size=size), journal, weights)


def interrupted(folder: Path, dataset: SegmentationDataset, at: int, **options: bool) -> BaseException:
    """Interrupt a run at the image of index ``at``; returns the error that ended it."""
    error = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt), opened(folder, **options) as journal:
        run(journal, dataset, Sums(at, error))
    return error


class Stop(Exception):
    """Raised when everything is computed, before results are written."""


def stopped(folder: Path, dataset: SegmentationDataset, size: int = 2, weights: str = "", **options: bool) -> Outcome:
    """Compute everything, but write no results, so that the journal remains."""
    outcome = None
    with contextlib.suppress(Stop), opened(folder, **options) as journal:
        outcome = run(journal, dataset, Sums(), size, weights)
        raise Stop
    assert outcome is not None
    return outcome


def values(outcome: Outcome) -> list:
    return [(arrays["indices"].tolist(), arrays["sums"].tolist()) for arrays in outcome.blocks.values()]


def test_an_interrupted_run_resumes_with_the_same_result(
    dataset: SegmentationDataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    expected = values(run(Journal.nowhere(), dataset, Sums()))
    error = interrupted(tmp_path, dataset, at=5)
    folder = next((tmp_path / "unfinished").iterdir())
    assert error.__notes__ == [f"4 of 7 images kept in {folder}: the same command resumes"]
    again = Sums()
    with opened(tmp_path) as journal:
        outcome = run(journal, dataset, again)
    assert values(outcome) == expected
    assert again.seen == [4, 5, 6]
    assert outcome.done.computed == 3
    assert f"resuming: 4 of 7 images done ({folder}); --fresh starts over" in capsys.readouterr().out
    assert not (tmp_path / "unfinished").exists()  # a finished run leaves no journal


def test_fresh_starts_over(dataset: SegmentationDataset, tmp_path: Path) -> None:
    interrupted(tmp_path, dataset, at=5)
    again = Sums()
    with opened(tmp_path, fresh=True) as journal:
        run(journal, dataset, again)
    assert again.seen == list(range(7))


def test_results_that_cannot_be_written_keep_the_journal(dataset: SegmentationDataset, tmp_path: Path) -> None:
    stopped(tmp_path, dataset)
    again = Sums()
    with opened(tmp_path) as journal:
        run(journal, dataset, again)
    assert again.seen == []


def test_a_run_with_other_settings_does_not_resume_and_names_the_differences(
    dataset: SegmentationDataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    interrupted(tmp_path, dataset, at=5)
    folder = next((tmp_path / "unfinished").iterdir())
    assert json.loads((folder / SETTINGS).read_text()) == SETTINGS_OF_A_RUN
    again = Sums()
    with opened(tmp_path, {"crf": {"iters": 0}, "weights": "x" * 64}) as journal:
        run(journal, dataset, again)
    assert again.seen == list(range(7))
    said = capsys.readouterr().err
    assert "crf.iters: there 20, here 0; weights differs" in said
    assert f"`rm -r {folder}` removes it" in said
    assert folder.is_dir()  # the user decides whether to remove it


@pytest.mark.parametrize("name", ["iou[b].csv", "iou*.csv", "i?u.csv"])
def test_glob_characters_in_names_are_literal(
    dataset: SegmentationDataset, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    results = tmp_path / "a[b]*" / name
    with pytest.raises(KeyboardInterrupt), Journal(results, SETTINGS_OF_A_RUN) as journal:
        run(journal, dataset, Sums(5))
    folder = journal.folder
    with contextlib.suppress(Stop), Journal(results, {}):
        raise Stop
    said = capsys.readouterr().err
    assert f"note: {folder} is an unfinished run with other settings" in said
    assert f"`rm -r '{folder}'` removes it" in said  # a shell would expand the name
    again = Sums()
    with Journal(results, SETTINGS_OF_A_RUN) as journal:
        run(journal, dataset, again)
    assert again.seen == [4, 5, 6]


def test_differences_are_listed_by_key() -> None:
    assert differences(SETTINGS_OF_A_RUN, SETTINGS_OF_A_RUN) == []
    other = {"experiment": "training-free", "crf": {"iters": 20, "new": True}, "model": {"layers": [0, 1]}}
    assert differences(SETTINGS_OF_A_RUN, other) == [
        "model.layers: there [0, 3], here [0, 1]",
        "crf.new: there nothing, here true",
    ]


def test_only_blocks_of_changed_files_are_computed_again(dataset: SegmentationDataset, tmp_path: Path) -> None:
    interrupted(tmp_path, dataset, at=6)
    mask = dataset.entries[2].mask
    assert mask is not None
    os.utime(mask, ns=(1, 1))
    again = Sums()
    with opened(tmp_path) as journal:
        run(journal, dataset, again)
    assert again.seen == [2, 3, 6]


def test_a_fingerprint_depends_on_path_size_time_and_weights(tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    for path in (one, other):
        path.write_bytes(b"12")
        os.utime(path, ns=(5, 5))
    first = fingerprint([ListEntry(one, other)], True, "")
    assert fingerprint([ListEntry(one, other)], True, "") == first
    different = {
        fingerprint([ListEntry(other, one)], True, ""),
        fingerprint([ListEntry(one, other)], False, ""),
        fingerprint([ListEntry(one, other)], True, "tuned"),
        fingerprint([ListEntry(one, other), ListEntry(one, other)], True, ""),
        fingerprint([ListEntry(one, tmp_path / "missing")], True, ""),
    }
    one.write_bytes(b"123")
    os.utime(one, ns=(5, 5))
    different.add(fingerprint([ListEntry(one, other)], True, ""))
    one.write_bytes(b"12")
    os.utime(one, ns=(6, 5))
    assert fingerprint([ListEntry(one, other)], True, "") == first  # reading changes nothing
    os.utime(one, ns=(5, 6))
    different.add(fingerprint([ListEntry(one, other)], True, ""))
    assert len(different) == 7
    assert first not in different


def test_records_of_other_weights_do_not_count(dataset: SegmentationDataset, tmp_path: Path) -> None:
    stopped(tmp_path, dataset, weights="one")
    again = Sums()
    with opened(tmp_path) as journal:
        run(journal, dataset, again, weights="other")
    assert again.seen == list(range(7))


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_journals_may_be_split_repeated_or_truncated(
    dataset: SegmentationDataset, tmp_path: Path, data: st.DataObject
) -> None:
    """Records in files of many processes, some repeated, some files truncated, give the result of one run."""
    size = data.draw(st.integers(1, 3))
    folder = opened(tmp_path).folder
    expected = values(stopped(tmp_path, dataset, size, fresh=True))
    files = list(folder.glob("*.records"))
    records = list(read_records(files))
    files[0].unlink()
    for number in range(data.draw(st.integers(0, 3))):
        chosen = data.draw(st.lists(st.sampled_from(records), max_size=6))
        content = b"".join(record.encode() for record in chosen)
        cut = data.draw(st.integers(0, len(content)))
        (folder / f"{number}.records").write_bytes(content[:cut])
    whole = {record.block for record in read_records(folder.glob("*.records"))}
    again = Sums()
    with opened(tmp_path) as journal:
        outcome = run(journal, dataset, again, size)
    assert values(outcome) == expected
    done = [index for block in whole for index in range(7)[block * size : (block + 1) * size]]
    assert sorted([*again.seen, *done]) == list(range(7))


def damage(dataset: SegmentationDataset, index: int) -> Callable[[], None]:
    """Damage an image; returns a function that restores it."""
    image = dataset.entries[index].image
    content = image.read_bytes()
    image.write_bytes(content[:200])
    return lambda: image.write_bytes(content) and None


def test_a_bad_image_ends_the_run_and_it_resumes_once_the_image_is_fixed(
    dataset: SegmentationDataset, tmp_path: Path
) -> None:
    mend = damage(dataset, 5)
    with pytest.raises(UserError, match=r"5\.jpg cannot be read .* \(line 6 of the image list\)") as caught:  # noqa: SIM117
        with opened(tmp_path) as journal:
            run(journal, dataset, Sums())
    assert caught.value.__notes__[0].startswith("4 of 7 images kept in ")
    mend()
    again = Sums()
    with opened(tmp_path) as journal:
        outcome = run(journal, dataset, again)
    assert again.seen == [4, 5, 6]
    assert outcome.skipped == []


def test_unreadable_images_are_skipped_on_demand_and_included_once_fixed(
    dataset: SegmentationDataset, tmp_path: Path
) -> None:
    menders = [damage(dataset, index) for index in (1, 4, 5)]
    outcome = stopped(tmp_path, dataset, skip_unreadable=True)
    assert [Path(entry["image"]).name for entry in outcome.skipped] == ["1.jpg", "4.jpg", "5.jpg"]
    assert "line 2 of the image list" in outcome.skipped[0]["reason"]
    assert [arrays["indices"].tolist() for arrays in outcome.blocks.values()] == [[0], [2, 3], [6]]
    with pytest.raises(UserError, match=r"1\.jpg cannot be read"), opened(tmp_path) as journal:
        run(journal, dataset, Sums())  # without --skip-unreadable
    for mend in menders:
        mend()
    again = Sums()
    with opened(tmp_path, skip_unreadable=True) as journal:
        outcome = run(journal, dataset, again)
    assert again.seen == [0, 1, 4, 5]
    assert outcome.skipped == []


def test_without_any_readable_image_one_error_is_raised_and_nothing_is_kept(
    dataset: SegmentationDataset, tmp_path: Path
) -> None:
    for index in range(7):
        damage(dataset, index)
    with (
        pytest.raises(UserError, match=r"none of 7 images can be read: image .*0\.jpg cannot be read") as error,
        opened(tmp_path, skip_unreadable=True) as journal,
    ):
        run(journal, dataset, Sums())
    assert not hasattr(error.value, "__notes__")  # no note that blocks are kept
    assert list(tmp_path.rglob("*.records")) == []
    assert not (tmp_path / "unfinished").exists()


def test_a_full_disk_does_not_end_the_run_and_is_reported_once(
    dataset: SegmentationDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write, failures = subject.RecordFile.write, [True, False, False, True, False]

    def full_now_and_then(self: subject.RecordFile, records: list[Record]) -> None:
        if failures.pop(0):
            raise OSError(errno.ENOSPC, "No space left on device")
        write(self, records)

    monkeypatch.setattr(subject.RecordFile, "write", full_now_and_then)
    expected = values(stopped(tmp_path, dataset))
    assert capsys.readouterr().err.count("(No space left on device); the run continues") == 1
    monkeypatch.undo()
    again = Sums()
    with opened(tmp_path) as journal:
        assert values(run(journal, dataset, again, size=2)) == expected
    assert again.seen in ([], [6])  # failed writes were retried


def test_only_blocks_on_the_disk_are_reported_as_kept(
    dataset: SegmentationDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: subject.RecordFile, records: list[Record]) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    write = subject.RecordFile.write
    monkeypatch.setattr(subject.RecordFile, "write", full)
    assert not getattr(interrupted(tmp_path, dataset, at=5), "__notes__", [])
    monkeypatch.setattr(subject.RecordFile, "write", write)
    assert interrupted(tmp_path, dataset, at=3).__notes__[0].startswith("2 of 7 images kept in ")


def test_a_removed_journal_is_not_reported_as_kept(dataset: SegmentationDataset, tmp_path: Path) -> None:
    with pytest.raises(Stop) as caught, opened(tmp_path) as journal:  # noqa: PT012 (the journal is left by an error)
        run(journal, dataset, Sums())
        shutil.rmtree(journal.folder)
        raise Stop
    assert not getattr(caught.value, "__notes__", [])


def junk_file(folder: Path) -> None:
    folder.parent.mkdir()
    folder.write_text("junk")


def junk_records(folder: Path) -> None:
    folder.mkdir(parents=True)
    (folder / "a.records").mkdir()
    os.mkfifo(folder / "b.records")
    (folder / "c.records").write_bytes(b"junk")
    (folder / SETTINGS).mkdir()


@pytest.mark.parametrize("junk", [junk_file, junk_records])
def test_an_invalid_journal_does_not_end_the_run(
    junk: Callable[[Path], None], dataset: SegmentationDataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    junk(opened(tmp_path).folder)
    with opened(tmp_path) as journal:
        outcome = run(journal, dataset, Sums())
    assert values(outcome) == values(run(Journal.nowhere(), dataset, Sums()))
    said = capsys.readouterr().err
    assert "note: cannot " in said
    assert "Traceback" not in said


def test_unreadable_records_of_another_user_are_recomputed(
    dataset: SegmentationDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    expected = values(stopped(tmp_path, dataset))
    read = Path.read_bytes

    def refused(path: Path) -> bytes:
        if path.suffix == ".records":
            raise PermissionError(errno.EACCES, "Permission denied")
        return read(path)

    monkeypatch.setattr(Path, "read_bytes", refused)
    again = Sums()
    with opened(tmp_path) as journal:
        assert values(run(journal, dataset, again)) == expected
    assert again.seen == list(range(7))
    assert capsys.readouterr().err.count("(Permission denied); the images in it are computed again") == 1


def test_fresh_does_not_resume_a_journal_that_cannot_be_removed(
    dataset: SegmentationDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopped(tmp_path, dataset)
    monkeypatch.setattr(shutil, "rmtree", lambda *_, **__: None)
    with pytest.raises(UserError, match=r"--fresh cannot remove .*: remove it, or choose another --output-dir"):
        opened(tmp_path, fresh=True).__enter__()


def test_other_runs_with_invalid_settings_are_ignored(
    dataset: SegmentationDataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number, content in enumerate(("[]", "{", "[" * 100_000, "")):
        folder = tmp_path / "unfinished" / f"iou_{number:016x}"
        folder.mkdir(parents=True)
        (folder / SETTINGS).write_text(content)
    (folder / SETTINGS).unlink()
    os.mkfifo(folder / SETTINGS)  # reading it would block forever
    with opened(tmp_path) as journal:
        run(journal, dataset, Sums())
    assert "experiment: there nothing" in capsys.readouterr().err  # a list gives no settings


def test_a_journal_may_be_removed_by_another_process(dataset: SegmentationDataset, tmp_path: Path) -> None:
    """The same command runs twice at the same time: the first to finish removes the journal of both."""
    with opened(tmp_path) as slow:
        with opened(tmp_path) as fast:
            run(fast, dataset, Sums())
        assert values(run(slow, dataset, Sums())) == values(run(Journal.nowhere(), dataset, Sums()))
    assert not (tmp_path / "unfinished").exists()


class Streamed(Sums):
    """Checks that only one unpacked block at a time is in memory."""

    def __init__(self) -> None:
        super().__init__()
        self.alive: list[weakref.ref[torch.Tensor]] = []
        self.added = 0

    def add(self, block: int, arrays: Arrays) -> None:
        self.added += 1
        assert not any(array() is not None for array in self.alive)
        self.alive = [weakref.ref(array) for array in arrays.values()]


def test_resumed_blocks_are_added_as_a_stream(dataset: SegmentationDataset, tmp_path: Path) -> None:
    stopped(tmp_path, dataset, size=1)
    streamed = Streamed()
    with opened(tmp_path) as journal:
        run(journal, dataset, streamed, size=1)
    assert (streamed.added, streamed.seen) == (7, [])


def test_blocks_of_other_processes_are_added_as_a_stream(
    dataset: SegmentationDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = values(stopped(tmp_path, dataset, size=1))
    others = {record.block: record.payload for record in read_records(opened(tmp_path).folder.glob("*.records"))}
    # from the view of the first of two processes, if the other computes everything
    monkeypatch.setattr(processes, "share_of", lambda items: [])
    monkeypatch.setattr(processes, "gather", lambda value: [value, {} if isinstance(value, frozenset) else others])
    streamed = Streamed()
    run(Journal.nowhere(), dataset, streamed, size=1)
    assert (streamed.added, streamed.seen) == (7, [])
    assert values(run(Journal.nowhere(), dataset, Sums(), size=1)) == expected


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    ],
)
def test_batches_too_large_for_memory_are_halved_with_one_note(
    error: Exception, dataset: SegmentationDataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    note_once.cache_clear()
    sizes = []

    class Small(Sums):
        def process(self, batch: Batch) -> Arrays:
            sizes.append(len(batch))
            if len(batch) > 1:
                raise error
            return super().process(batch)

    expected = values(run(Journal.nowhere(), dataset, Sums(), size=4))
    outcome = run(Journal.nowhere(), dataset, Small(), size=4)
    assert values(outcome) == expected
    assert sizes == [4, 2, 1, 1, 2, 1, 1, 3, 1, 2, 1, 1]
    assert outcome.done.halved == 2
    assert capsys.readouterr().err.count("out of memory with 4 images") == 1


@pytest.fixture
def short_of_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reset what the process remembers of lack of memory."""
    monkeypatch.setattr(runtime, "_halvings", 0)
    monkeypatch.setattr(runtime, "_reduced", False)
    note_once.cache_clear()


def test_one_image_too_large_for_memory_is_computed_with_fewer_prompts_at_once(
    dataset: SegmentationDataset, short_of_memory: None, capsys: pytest.CaptureFixture[str]
) -> None:
    budgets = []

    class Tight(Sums):
        def process(self, batch: Batch) -> Arrays:
            budgets.append(runtime.working_memory(torch.device("cpu"), 0, 1024))
            if budgets[-1] > 256:
                raise MemoryError
            return super().process(batch)

    outcome = run(Journal.nowhere(), dataset, Tight(), size=1)
    assert values(outcome) == values(run(Journal.nowhere(), dataset, Sums(), size=1))
    assert budgets[:4] == [1024, 512, 256, 256]  # and this remains: the next image would not fit either
    assert outcome.done.halved == 7  # chunks round differently
    assert capsys.readouterr().err.count("using fewer prompts at a time") == 1


def test_one_image_too_large_for_memory_is_a_one_line_error(
    dataset: SegmentationDataset, short_of_memory: None
) -> None:
    with pytest.raises(UserError, match="out of memory with one image: lower"):
        run(Journal.nowhere(), dataset, Sums(0, MemoryError()))


def test_other_errors_are_not_mistaken_for_lack_of_memory(dataset: SegmentationDataset) -> None:
    with pytest.raises(RuntimeError, match="shapes"):
        run(Journal.nowhere(), dataset, Sums(0, RuntimeError("shapes do not fit")))
