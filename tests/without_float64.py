"""A device that refuses float64, as MPS does: tensors on the device ``meta`` whose values are kept on the CPU."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

DEVICE = torch.device("meta")


class OnDevice(Tensor):
    """A tensor on :data:`DEVICE` with values."""

    inner: Tensor

    @staticmethod
    def __new__(cls, inner: Tensor) -> OnDevice:
        tensor = torch.Tensor._make_wrapper_subclass(  # pyright: ignore[reportAttributeAccessIssue]
            cls, inner.shape, strides=inner.stride(), dtype=inner.dtype, device=DEVICE
        )
        tensor.inner = inner
        return tensor

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _compute(func, args, kwargs or {})

    def tolist(self) -> Any:
        """PyTorch's own refuses subclasses."""
        return self.inner.tolist()


class _Mode(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _compute(func, args, kwargs or {})


def _compute(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Compute on the CPU; the result is on the device that is requested, or on that of the arguments."""
    device = kwargs.get("device")
    inputs = [each for each in tree_leaves((args, kwargs)) if isinstance(each, Tensor)]
    on_device = any(isinstance(each, OnDevice) for each in inputs) if device is None else device.type == DEVICE.type
    if on_device and device is None and any(each.ndim and not isinstance(each, OnDevice) for each in inputs):
        raise RuntimeError(f"{func} got tensors on two devices")

    def unwrap(value: Any) -> Any:
        if isinstance(value, OnDevice):
            return value.inner
        return torch.device("cpu") if isinstance(value, torch.device) else value

    def wrap(value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        if value.dtype == torch.float64:
            raise TypeError(f"{func} gives float64, which the device does not have")
        return OnDevice(value)

    result = func(*tree_map(unwrap, args), **tree_map(unwrap, kwargs))
    return tree_map(wrap, result) if on_device else result


def _tensor(data: Any, *, dtype: torch.dtype | None = None, device: torch.device | None = None) -> Tensor:
    tensor = torch.asarray(data, dtype=dtype)
    return tensor if device is None else tensor.to(device)


@contextmanager
def device_without_float64(module: nn.Module, monkeypatch: pytest.MonkeyPatch) -> Iterator[torch.device]:
    """Context in which ``module`` is on a device without float64."""
    with monkeypatch.context() as patch:
        patch.setattr(torch, "autocast", lambda *_, **__: nullcontext())  # it does not know the device
        patch.setattr(torch, "is_autocast_enabled", lambda *_: False)
        patch.setattr(torch, "tensor", _tensor)  # it evades the mode
        for part in module.modules():
            for name, parameter in list(part._parameters.items()):
                if parameter is not None:
                    patch.setitem(part._parameters, name, nn.Parameter(OnDevice(parameter.data), requires_grad=False))
            for name, buffer in list(part._buffers.items()):
                if buffer is not None:
                    patch.setitem(part._buffers, name, OnDevice(buffer))
        with _Mode():
            yield DEVICE
