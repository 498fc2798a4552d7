"""Fake CUDA: tensors with a device, a dtype, a shape and strides, but no values.

With FakeTensors PyTorch runs the real operations for the device except the kernels: tensors of
different devices do not mix, dtypes follow autocast's rules, and reading a value, which on a GPU would make the
CPU wait, is an error. In tests, anything called ``fake`` has no values.
"""

from __future__ import annotations

import weakref
from collections import Counter
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from src import runtime

FREE = 60 << 30
CUDA = torch.device("cuda", 0)


def fake_cuda(
    monkeypatch: pytest.MonkeyPatch, free: int = FREE, capability: tuple[int, int] = (9, 0)
) -> FakeTensorMode:
    """A mode in which ``device="cuda"`` works, on a GPU with ``free`` bytes; enter it around the tested code."""
    monkeypatch.setattr(torch.cuda.amp.common, "amp_definitely_not_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda *_, **__: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _=None: capability)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _=None: (free, 2 * free))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda _=None: 0)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda _=None: 0)
    monkeypatch.setattr(runtime, "_reduced", runtime._reduced)  # what the test changes ends with it
    return FakeTensorMode(allow_non_fake_inputs=False)


def to_fake_cuda(module: nn.Module) -> None:
    """Put a module's parameters and buffers on the fake GPU; called within the mode."""
    for part in module.modules():
        for name, parameter in list(part._parameters.items()):
            if parameter is not None:
                part._parameters[name] = nn.Parameter(like(parameter), requires_grad=False)
        for name, buffer in list(part._buffers.items()):
            if buffer is not None:
                part._buffers[name] = like(buffer)


def like(tensor: Tensor) -> Tensor:
    """A fake of ``tensor`` on the GPU; called within the mode."""
    return torch.empty(tensor.shape, dtype=tensor.dtype, device=CUDA)


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of live tensors, as PyTorch's allocator would.

    Enter it within the fake mode, so that it sees all tensors. Refuses float64 on the GPU, as MPS does.

    Attributes:
        peak: most bytes alive at once, of tensors created or used since.
        calls: how often each operation was called.
        waits: operations that copied from the GPU to the CPU, which synchronises.
        uploads: operations that copied from the CPU to the GPU, which synchronises for pageable memory.
    """

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = 0
        self.calls: Counter[str] = Counter()
        self.waits: list[str] = []
        self.uploads: list[str] = []
        self._references: Counter[int] = Counter()
        self._bytes: dict[int, int] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        self.calls[name] += 1
        devices = {each.device.type for each in tree_leaves((args, kwargs)) if isinstance(each, Tensor) and each.ndim}
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor):
                self._count(tensor)
                if tensor.device.type == "cuda" and tensor.dtype == torch.float64:
                    raise TypeError(f"{name} gives float64 on the GPU, which MPS does not have")
                if tensor.device.type == "cuda" and "cpu" in devices:
                    self.uploads.append(name)
                if tensor.device.type == "cpu" and "cuda" in devices:
                    self.waits.append(name)
        return result

    def _count(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if not self._references[key]:
            self._bytes[key] = storage.nbytes()
            self.live += storage.nbytes()
            self.peak = max(self.peak, self.live)
        self._references[key] += 1
        weakref.finalize(tensor, self._gone, key)

    def _gone(self, key: int) -> None:
        self._references[key] -= 1
        if not self._references[key]:
            self.live -= self._bytes.pop(key)
