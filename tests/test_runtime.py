"""Choosing process, device and number format; slow modules are imported only when needed."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch

from src import runtime
from src.config.schema import Amp
from src.errors import UserError
from src.method import precision
from src.method.precision import number_format
from src.runtime import choose_device

CPU = torch.device("cpu")
PRODUCTS = [(32, 16), (16, 32)]


@pytest.mark.parametrize("name", ["gpu", "cuda:", "cuda:x", "cuda:-1", "", "mps:0", "cpu:0"])
def test_devices_that_do_not_exist_are_refused(name: str) -> None:
    with pytest.raises(UserError, match=rf"--device {name}: expected auto, cpu, cuda, cuda:N or mps"):
        choose_device(name)


current: list[int] = []
"""What became PyTorch's current device."""


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Pretend that PyTorch finds N GPUs of a compute capability, and has code for some architectures."""

    current.clear()

    def see(
        count: int, capability: tuple[int, int] = (8, 6), architectures: Sequence[str] = ("sm_75", "sm_80")
    ) -> None:
        monkeypatch.setattr(torch.version, "cuda", "13.0")
        monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _=None: capability)
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda _=None: "Some GPU")
        monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: list(architectures))
        monkeypatch.setattr(torch.cuda, "set_device", current.append)

    return see


def test_auto_uses_cuda_where_available(gpus: Callable[..., None]) -> None:
    gpus(2)
    assert choose_device("auto") == choose_device("cuda") == torch.device("cuda", 0)
    assert choose_device("cuda:1") == torch.device("cuda", 1)
    assert current == [0, 0, 1]
    assert choose_device("cpu") == CPU
    with pytest.raises(UserError, match="the machine has 2, counted"):
        choose_device("cuda:2")
    gpus(0)
    assert choose_device("auto") == CPU


def test_the_reason_for_missing_cuda_is_printed(gpus: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    gpus(0)

    def no_driver() -> None:
        raise RuntimeError("The NVIDIA driver on your system is too old (found version 12020). Please update it.")

    monkeypatch.setattr(torch.cuda, "init", no_driver)
    reason = (
        r"built for CUDA 13\.0 but finds no GPU: The NVIDIA driver on your system is too old \(found version 12020\) "
    )
    with pytest.raises(UserError, match=rf"--device cuda: .*{reason}.*; use --device cpu"):
        choose_device("cuda")
    monkeypatch.setattr(torch.version, "cuda", None)
    with pytest.raises(
        UserError, match=r"--device cuda:1: .* built without CUDA .*docs/install.md.*; use --device cpu"
    ):
        choose_device("cuda:1")


@pytest.mark.parametrize(
    ("capability", "architectures", "runs"),
    [
        ((7, 5), ("sm_75", "sm_80"), True),
        ((8, 9), ("sm_75", "sm_86"), True),
        ((8, 0), ("sm_75", "sm_86"), False),
        ((6, 1), ("sm_75", "sm_90"), False),
        ((12, 0), ("sm_90", "sm_100", "sm_120"), True),
        ((12, 1), ("sm_90", "compute_90"), True),
        ((12, 1), ("sm_90a", "sm_100f"), False),
        ((10, 0), ("sm_100a",), True),
    ],
)
def test_a_gpu_without_code_in_this_pytorch_is_not_used(
    capability: tuple[int, int],
    architectures: tuple[str, ...],
    runs: bool,
    gpus: Callable[..., None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    gpus(1, capability, architectures)
    if runs:
        assert choose_device("cuda") == choose_device("auto") == torch.device("cuda", 0)
        return
    fault = f"Some GPU has compute capability {capability[0]}.{capability[1]}, but PyTorch .* supports only"
    with pytest.raises(UserError, match=fault):
        choose_device("cuda:0")
    assert choose_device("auto") == CPU
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1
    assert said[0].startswith("computing on the CPU: Some GPU has compute capability")


def test_each_process_of_a_machine_uses_its_own_gpu(gpus: Callable[..., None], of_job: Callable[..., None]) -> None:
    gpus(2)
    of_job(LOCAL_RANK="1")
    assert choose_device("auto") == choose_device("cuda") == torch.device("cuda", 1)
    assert choose_device("cuda:0") == torch.device("cuda", 0)
    of_job(LOCAL_RANK="2")
    with pytest.raises(UserError, match="this process needs CUDA device 2, but the machine has 2, counted from 0"):
        choose_device("auto")


def test_mps_is_used_where_available(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert choose_device("mps") == torch.device("mps")
    assert number_format(True, torch.device("mps"), PRODUCTS).autocast_dtype is None
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(UserError, match="--device mps: PyTorch finds no Apple GPU"):
        choose_device("mps")


def test_process_counts_follow_torchruns_variables(of_job: Callable[..., None]) -> None:
    of_job(RANK="5", WORLD_SIZE="8", LOCAL_RANK="1", LOCAL_WORLD_SIZE="4")
    counted = (runtime.rank(), runtime.world_size(), runtime.local_rank(), runtime.local_world_size())
    assert counted == (5, 8, 1, 4)
    runtime.check_job()
    of_job(RANK="1")  # a job of single processes on machines, as Kubeflow starts it
    assert (runtime.rank(), runtime.world_size(), runtime.local_rank(), runtime.local_world_size()) == (1, 2, 0, 1)
    runtime.check_job()


@pytest.mark.parametrize("missing", runtime.JOB)
@pytest.mark.parametrize("value", [None, ""])
def test_a_process_without_all_variables_of_a_job_computes_alone(
    missing: str, value: str | None, of_job: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    of_job(**{"RANK": "1", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2", missing: value})
    assert (runtime.rank(), runtime.world_size(), runtime.local_rank(), runtime.local_world_size()) == (0, 1, 0, 1)
    runtime.check_job()
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1
    assert f"is set, but not {missing}: this process computes alone" in said[0]


def test_without_a_job_nothing_is_printed(of_job: Callable[..., None], capsys: pytest.CaptureFixture[str]) -> None:
    of_job(RANK="", WORLD_SIZE=None)  # MASTER_ADDR alone is part of many containers
    runtime.check_job()
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("variables", "fault"),
    [
        ({"RANK": "x"}, "RANK=x: expected a whole number"),
        ({"WORLD_SIZE": "-1"}, "WORLD_SIZE=-1: expected a whole number"),
        ({"MASTER_PORT": "http"}, "MASTER_PORT=http: expected a whole number"),
        ({"LOCAL_RANK": ""}, "LOCAL_RANK=: expected a whole number"),
        ({"RANK": "2"}, "RANK=2: expected less than WORLD_SIZE=2"),
        ({"LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "1"}, "LOCAL_RANK=1: expected less than LOCAL_WORLD_SIZE=1"),
    ],
)
def test_invalid_variables_of_a_job_are_refused(
    variables: dict[str, str], fault: str, of_job: Callable[..., None]
) -> None:
    of_job(**variables)
    with pytest.raises(UserError, match=f"environment variable {fault}"):
        runtime.check_job()


@pytest.mark.parametrize("device", ["cpu", "cuda:1", "mps"])
@pytest.mark.parametrize(
    ("amp", "name", "dtype"),
    [(False, "float32", None), ("bf16", "bfloat16", torch.bfloat16), ("fp16", "float16", torch.float16)],
)
def test_a_requested_number_format_is_used(amp: Amp, name: str, dtype: torch.dtype | None, device: str) -> None:
    numbers = number_format(amp, torch.device(device), PRODUCTS)
    assert (numbers.name, numbers.autocast_dtype) == (name, dtype)
    assert numbers.why == f"runtime.amp is {str(amp).lower()}"


@pytest.mark.parametrize(("gain", "name"), [(4.2, "bfloat16"), (1.1, "float32"), (0.5, "float32")])
def test_true_is_bfloat16_on_cpus_that_clearly_gain_by_it(
    gain: float, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    found = precision.Trial(gain, "some CPU", "2.11", (), "bfloat16")
    monkeypatch.setattr(precision, "trial_of", lambda *trial: asked.append(trial) or found)
    numbers = number_format(True, CPU, PRODUCTS)
    assert (numbers.name, asked) == (name, [(tuple(PRODUCTS), "bfloat16")])
    assert (
        numbers.why == f"runtime.amp is true: bfloat16 was {gain:.2f} times as fast as float32 when timed on this CPU"
    )


@pytest.mark.parametrize(
    ("capability", "name"), [((6, 1), "float32"), ((7, 5), "float16"), ((8, 0), "float16"), ((12, 0), "float16")]
)
def test_true_is_float16_on_cuda_as_published(
    capability: tuple[int, int], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The format depends on the device that computes, not on the current one."""
    asked = []
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: asked.append(device) or capability)
    device = torch.device("cuda", 1)
    assert number_format(True, device, PRODUCTS).name == name
    assert asked == [device]
