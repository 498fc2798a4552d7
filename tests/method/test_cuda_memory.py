"""Memory of the method on a GPU, counted on fake tensors: limits follow free memory."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from replace_huggingface.modeling_blip_text import LOGITS_BUDGET_BYTES
from src.evaluation.memory import within_memory
from src.method.crf import ConvCRF
from src.runtime import MAX_WORKING_BYTES, working_memory
from tests.fake_cuda import LiveBytes, fake_cuda

GIB = 1 << 30


@pytest.mark.parametrize(("free", "expected"), [(60, 6), (6, 6), (5.9, 3), (2.9, 1.5), (0.1, 0.75)])
def test_work_is_halved_until_it_fits(free: float, expected: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """By halves: chunks that depended on free bytes would round differently in every run."""
    fake_cuda(monkeypatch, int(free * GIB))
    least = 3 * LOGITS_BUDGET_BYTES
    assert MAX_WORKING_BYTES == 6 * GIB
    assert working_memory(torch.device("cuda"), MAX_WORKING_BYTES, least) == expected * GIB
    assert working_memory(torch.device("cpu"), MAX_WORKING_BYTES, least) == least


def test_batches_are_marked_once_free_memory_reduced_the_working_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pieces of a batch round differently, so result files record them."""
    fake_cuda(monkeypatch, 60 * GIB)
    cuda = torch.device("cuda")

    def compute(batch: list[int]) -> int:
        return working_memory(cuda, MAX_WORKING_BYTES, 0)

    assert within_memory(compute, [0], halves=lambda _: ([], []), merge=max) == (6 * GIB, False)
    fake_cuda(monkeypatch, 5 * GIB)
    assert within_memory(compute, [0], halves=lambda _: ([], []), merge=max) == (3 * GIB, True)
    fake_cuda(monkeypatch, 60 * GIB)
    assert within_memory(compute, [0], halves=lambda _: ([], []), merge=max) == (6 * GIB, True)


def test_memory_cached_by_pytorch_counts_as_free(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_cuda(monkeypatch, GIB)
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda _: 7 * GIB)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda _: 2 * GIB)
    assert working_memory(torch.device("cuda"), MAX_WORKING_BYTES, 0) == 6 * GIB


@pytest.mark.parametrize("backend", ["torch", "triton"])
@pytest.mark.parametrize(
    ("batch", "classes", "free"), [(48, 21, 60), (48, 21, 2), (16, 81, 60), (16, 81, 1), (3, 254, 60)]
)
def test_the_crf_uses_the_memory_that_it_estimates(
    batch: int, classes: int, free: int, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Kernels count as well as class maps: with few classes they are larger."""
    kernel = SimpleNamespace(update=lambda *_: None) if backend == "triton" else None
    monkeypatch.setattr(ConvCRF, "_triton", lambda *_: kernel)
    crf = ConvCRF(iterations=2)
    with fake_cuda(monkeypatch, free * GIB), LiveBytes() as memory:
        unary = torch.empty(batch, classes, 512, 512, device="cuda")
        image = torch.empty(batch, 3, 512, 512, device="cuda")
        group, before = crf._group(unary), memory.live
        crf(unary, image)
    work = memory.peak - before - unary.nbytes  # the output is as large as the unary
    assert work <= free * GIB
    assert 0.75 < work / (group * crf._bytes_per_image(classes, 512, 512)) <= 1
    assert (free == 60) == (group == batch)
