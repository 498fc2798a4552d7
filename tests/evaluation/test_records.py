"""Records: of truncated, repeated or split files, complete records are found, and nothing else."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from src.evaluation.records import HEADER, Record, RecordFile, decode_records, pack, read_records, unpack

RECORDS = st.builds(Record, st.integers(0, 1000), st.binary(min_size=16, max_size=16), st.binary(max_size=60))
FEW = settings(max_examples=100, deadline=None)


@FEW
@given(st.lists(RECORDS, max_size=8), st.data())
def test_a_truncated_file_gives_its_complete_records(records: list[Record], data: st.DataObject) -> None:
    encoded = [record.encode() for record in records]
    whole = b"".join(encoded)
    cut = data.draw(st.integers(0, len(whole)))
    ends = np.cumsum([len(part) for part in encoded])
    assert list(decode_records(whole[:cut])) == records[: int((ends <= cut).sum())]


@FEW
@given(st.lists(RECORDS, min_size=1, max_size=5), st.data())
def test_a_changed_byte_never_gives_another_record(records: list[Record], data: st.DataObject) -> None:
    damaged = bytearray(b"".join(record.encode() for record in records))
    place = data.draw(st.integers(0, len(damaged) - 1))
    damaged[place] ^= data.draw(st.integers(1, 255))
    found = list(decode_records(bytes(damaged)))
    assert found == records[: len(found)]
    assert len(found) < len(records)


@FEW
@given(st.lists(RECORDS, max_size=8), st.integers(0, 200))
def test_reserved_space_and_noise_after_the_records_are_ignored(records: list[Record], room: int) -> None:
    whole = b"".join(record.encode() for record in records)
    assert list(decode_records(whole + bytes(room))) == records
    assert list(decode_records(whole + b"\xff" * room)) == records


def test_payloads_are_arrays() -> None:
    arrays = {
        "counts": np.arange(9).reshape(3, 3),
        "shares": np.float32([[0.1, 1e-38]]),
        "label_map": np.frombuffer(b"PNG", np.uint8),
        "nothing": np.zeros((0,), np.uint8),
        "turned": np.arange(6, dtype=np.int64).reshape(2, 3).T,
    }
    back = unpack(pack(arrays))
    assert back.keys() == arrays.keys()
    for name, array in arrays.items():
        assert back[name].dtype == array.dtype
        assert np.array_equal(back[name], array)


def test_counts_of_many_classes_are_small() -> None:
    counts = np.zeros((81, 81), np.int64)
    counts[0, :5] = counts[17, 3:9] = 12345
    assert len(pack({"counts": counts})) < 1000


def some(count: int, first: int = 0) -> list[Record]:
    return [Record(first + number, bytes(16), bytes([first + number + 1]) * 50) for number in range(count)]


def test_records_can_be_read_while_the_file_is_open(tmp_path: Path) -> None:
    path = tmp_path / "made" / "one.records"
    file = RecordFile(path, expected=100)
    assert not path.parent.exists()  # until the first record
    file.write(some(2))
    file.write(some(1, first=2))
    assert list(read_records([path])) == some(2) + some(1, first=2)
    if hasattr(os, "posix_fallocate"):
        assert path.stat().st_size > 100 * (HEADER.size + 50)  # space for later records
        assert path.stat().st_blocks * 512 >= 100 * (HEADER.size + 50)  # on the disk, not sparse
    file.close()
    assert path.stat().st_size == 3 * (HEADER.size + 50)
    assert len(list(read_records([path]))) == 3


def test_more_records_than_expected_are_accepted(tmp_path: Path) -> None:
    file = RecordFile(tmp_path / "one", expected=1)
    for number in range(20):
        file.write(some(1, first=number))
    file.close()
    assert [record.block for record in read_records([tmp_path / "one"])] == list(range(20))


def test_two_processes_never_write_to_one_file(tmp_path: Path) -> None:
    RecordFile(tmp_path / "one", 1).write(some(1))
    with pytest.raises(FileExistsError):
        RecordFile(tmp_path / "one", 1).write(some(1))


@pytest.mark.parametrize("reason", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()])
def test_an_interrupted_write_keeps_earlier_records_and_can_be_repeated(
    reason: BaseException, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = RecordFile(tmp_path / "one", expected=3)
    file.write(some(1))
    write = os.write

    def half(handle: int, data: memoryview) -> int:
        if len(data) > 42:
            return write(handle, data[:40])
        raise reason

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", half)
        with pytest.raises(type(reason)):
            file.write(some(1, first=1))
    assert list(read_records([tmp_path / "one"])) == some(1)
    file.write(some(2, first=1))
    file.close()
    assert list(read_records([tmp_path / "one"])) == some(3)


def test_a_missing_file_has_no_records(tmp_path: Path) -> None:
    assert list(read_records([tmp_path / "gone"])) == []
