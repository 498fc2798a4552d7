"""The ConvCRF against its formula, against the published outputs, and its backends against each other."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from src.errors import UserError
from src.method.crf import SMALL_IMAGE, ConvCRF, load_triton
from tests.oracles.crf import plain_crf

ROOT = Path(__file__).parents[2]
GOLDEN = ROOT / "tests" / "golden" / "pascal" / "expected.npz"


def scene(batch: int, classes: int, height: int, width: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Smooth class probabilities and a smooth image with noise, so that some neighbours are similar."""
    generator = torch.Generator().manual_seed(seed)

    def smooth(channels: int, cell: int) -> Tensor:
        coarse = torch.randn(batch, channels, -(-height // cell), -(-width // cell), generator=generator)
        return F.interpolate(coarse, size=(height, width), mode="bilinear")

    image = smooth(3, 16) + 0.05 * torch.randn(batch, 3, height, width, generator=generator)
    return (3 * smooth(classes, 8)).softmax(1), image


def relative_error(got: Tensor, expected: Tensor) -> float:
    return ((got.cpu() - expected.cpu()).abs().max() / expected.abs().max()).item()


@pytest.mark.parametrize("iterations", [0, 1, 2, 3])
@pytest.mark.parametrize(
    ("batch", "classes", "height", "width"),
    [
        (1, 2, 8, 8),  # smaller than a window
        (1, 2, 4, 4),  # one cell
        (3, 21, 64, 64),
        (1, 21, 60, 100),  # not a multiple of a block
        (3, 3, 128, 36),
        (1, 81, 96, 144),  # several strips, the last one shorter
    ],
)
def test_equals_the_formula(batch: int, classes: int, height: int, width: int, iterations: int) -> None:
    unary, image = scene(batch, classes, height, width)
    got = ConvCRF(iterations=iterations)(unary, image)
    expected = plain_crf(unary, image, iterations)
    assert got.shape == expected.shape
    assert relative_error(got, expected) < 1e-5


@pytest.mark.parametrize("mode", ["single", "multi"])
def test_reproduces_the_published_implementation(mode: str) -> None:
    golden = np.load(GOLDEN)
    unary, pixels = (torch.from_numpy(golden[f"{mode}_{name}"]) for name in ("unary", "pixels"))
    expected = torch.from_numpy(golden[f"{mode}_crf"])
    got = ConvCRF(iterations=10)(unary, pixels)
    assert (got - expected).abs().mean() < 1e-4
    assert (got.argmax(1) == expected.argmax(1)).float().mean() >= 0.9999


def test_the_formula_reproduces_the_published_implementation() -> None:
    golden = np.load(GOLDEN)
    unary, pixels = torch.from_numpy(golden["multi_unary"]), torch.from_numpy(golden["multi_pixels"])
    assert (plain_crf(unary, pixels, 10) - torch.from_numpy(golden["multi_crf"])).abs().mean() < 1e-5


def test_images_of_a_batch_do_not_mix() -> None:
    unary, image = scene(3, 5, 64, 48)
    crf = ConvCRF(iterations=3)
    one_by_one = torch.cat([crf(unary[i : i + 1], image[i : i + 1]) for i in range(3)])
    torch.testing.assert_close(crf(unary, image), one_by_one)


def test_colours_preserve_edges() -> None:
    """A class map that crosses an edge of the image is moved back to it."""
    image = torch.zeros(1, 3, 64, 64)
    image[..., 32:] = 2
    unary = torch.full((1, 2, 64, 64), 0.9)
    unary[:, 0, :, 40:] = unary[:, 1, :, :40] = 0.1
    label = ConvCRF(iterations=10)(unary, image).argmax(1)
    flat = ConvCRF(iterations=10)(unary, torch.zeros_like(image)).argmax(1)
    assert not torch.equal(label, flat)
    assert (label[:, :, 34:38] == 0).float().mean() < (flat[:, :, 34:38] == 0).float().mean()


def test_extreme_inputs_stay_finite() -> None:
    """One-hot probabilities on a flat image: the messages reach their largest values."""
    unary = F.one_hot(torch.zeros(1, 32, 32, dtype=torch.long), 4).permute(0, 3, 1, 2).float()
    image = torch.zeros(1, 3, 32, 32)
    got = ConvCRF(iterations=5)(unary, image)
    assert got.isfinite().all()
    assert relative_error(got, plain_crf(unary, image, 5)) < 1e-5


def test_float32_under_autocast_and_from_half_precision() -> None:
    unary, image = scene(1, 4, 32, 32)
    expected = ConvCRF(iterations=2)(unary, image)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(ConvCRF(iterations=2)(unary, image), expected)
    half = ConvCRF(iterations=2)(unary.bfloat16(), image)
    assert half.dtype == torch.float32
    assert torch.equal(half, ConvCRF(iterations=2)(unary.bfloat16().float(), image))


def test_torch_thread_settings_are_unchanged() -> None:
    unary, image = scene(1, 3, 64, 64)
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        ConvCRF(iterations=1)(unary, image)
        here = torch.get_num_threads()
        with ThreadPoolExecutor(1) as pool:
            in_a_new_thread = pool.submit(torch.get_num_threads).result()
    finally:
        torch.set_num_threads(before)
    assert (here, in_a_new_thread) == (3, 3)


@pytest.mark.parametrize("threads", [1, 4])
@pytest.mark.parametrize("shape", [(1, 21, 128, 128), (6, 5, 64, 64), (2, 21, 320, 320)])
def test_threads_do_not_change_the_result(shape: tuple[int, int, int, int], threads: int) -> None:
    """Small images run in one thread each, strips of a large one in several."""
    assert (np.prod(shape[1:]) < SMALL_IMAGE) == (shape[-1] < 320)
    unary, image = scene(*shape)
    expected = ConvCRF(iterations=3)(unary, image)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        assert torch.equal(ConvCRF(iterations=3)(unary, image), expected)
    finally:
        torch.set_num_threads(before)


def test_results_are_the_same_in_every_autograd_mode() -> None:
    unary, image = scene(1, 3, 32, 32)
    expected = ConvCRF(iterations=2)(unary, image)
    with torch.inference_mode():
        assert torch.equal(ConvCRF(iterations=2)(unary + 0, image + 0), expected)
    with_gradient = ConvCRF(iterations=2)(unary.requires_grad_(), image)
    assert torch.equal(with_gradient, expected)
    assert not with_gradient.requires_grad


def test_settings_matter() -> None:
    """Each setting changes the result (tests above check the values of the paper)."""
    unary, image = scene(1, 3, 64, 64)
    published = ConvCRF(iterations=3)(unary, image)
    for setting, value in {
        "window": 13,
        "pooling": 2,
        "spatial_weight": 4.0,
        "spatial_bandwidth": 6.0,
        "colour_weight": 9.0,
        "colour_bandwidth": 0.2,
        "unary_weight": 0.7,
        "message_weight": 0.1,
    }.items():
        assert relative_error(ConvCRF(iterations=3, **{setting: value})(unary, image), published) > 1e-4, setting


def test_mismatched_shapes_are_refused() -> None:
    unary, image = scene(1, 3, 32, 32)
    with pytest.raises(ValueError, match="expected \\(1, 3, 32, 32\\)"):
        ConvCRF()(unary, image[..., :28])
    with pytest.raises(ValueError, match="multiples of 4"):
        ConvCRF()(unary[..., :30], image[..., :30])
    with pytest.raises(ValueError, match="window"):
        ConvCRF(window=14)


@pytest.fixture
def fresh_probe() -> Iterator[None]:
    """Reset the cached result of whether Triton runs, before and after."""
    load_triton.cache_clear()
    yield
    load_triton.cache_clear()


@pytest.mark.usefixtures("fresh_probe")
def test_missing_triton_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "src.method.crf_triton", None)
    unary, image = scene(1, 2, 8, 8)
    with pytest.raises(UserError, match=r"'triton' does not run on cpu: ModuleNotFoundError.*; use 'torch'"):
        ConvCRF(backend="triton")(unary, image)


NO_COMPILER = "Failed to find C compiler.\nPlease specify via CC environment variable."


@pytest.mark.usefixtures("fresh_probe")
@pytest.mark.parametrize(
    "fault",
    [
        RuntimeError(NO_COMPILER),
        subprocess.CalledProcessError(1, "gcc"),  # no Python.h
        PermissionError(13, "Permission denied", "/root/.triton"),
        ValueError("unsupported GPU"),
    ],
)
def test_torch_replaces_a_kernel_that_cannot_be_launched(
    fault: Exception, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Triton compiles at the first launch: a failure must not end the run, and is reported once, in one line."""
    probes = []

    def probe(*arguments: object) -> None:
        probes.append(arguments)
        raise fault

    monkeypatch.setitem(sys.modules, "src.method.crf_triton", SimpleNamespace(probe=probe))
    device = torch.device("cuda", len(str(fault)))  # one failure is reported per device
    for _ in range(2):
        assert ConvCRF()._triton(device, 21) is None
    assert probes == [(device, 21, 4)]
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1
    assert said[0].startswith(f"CRF on {device} runs in plain torch: slower, same result: {type(fault).__name__}")
    with pytest.raises(UserError, match=f"'triton' does not run on {device}"):
        ConvCRF(backend="triton")._triton(device, 21)


@pytest.mark.usefixtures("fresh_probe")
def test_lack_of_memory_does_not_disable_the_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    def probe(*_: object) -> None:
        raise torch.OutOfMemoryError

    monkeypatch.setitem(sys.modules, "src.method.crf_triton", SimpleNamespace(probe=probe))
    with pytest.raises(torch.OutOfMemoryError):
        ConvCRF()._triton(torch.device("cuda"), 21)


@pytest.mark.usefixtures("fresh_probe")
def test_the_kernel_is_used_where_it_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = SimpleNamespace(probe=lambda *_: None)
    monkeypatch.setitem(sys.modules, "src.method.crf_triton", kernel)
    assert ConvCRF()._triton(torch.device("cuda"), 21) is kernel
    assert ConvCRF()._triton(torch.device("cpu"), 21) is None
    assert ConvCRF(backend="torch")._triton(torch.device("cuda"), 21) is None


def test_the_kernel_is_launched_on_the_device_of_its_tensors(monkeypatch: pytest.MonkeyPatch) -> None:
    """Triton launches on the current device, so the device of the tensors must be made current."""
    crf_triton = pytest.importorskip("src.method.crf_triton")
    current, launched_on = [0], []

    def exchange(index: int) -> int:
        before, current[0] = current[0], index if index >= 0 else current[0]
        return before

    class Kernel:
        def __getitem__(self, _: object) -> Callable[..., None]:
            return lambda *_, **__: launched_on.append(current[0])

    monkeypatch.setattr(torch.cuda, "_exchange_device", exchange)
    monkeypatch.setattr(torch.cuda, "_maybe_exchange_device", exchange)
    monkeypatch.setattr(crf_triton, "_update", Kernel())
    with FakeTensorMode():
        u = torch.empty(1, 4, 4, 2, 8, 8, device="cuda:1")
        messages, pooled = (torch.empty(1, 2, side, side, device="cuda:1") for side in (10, 8))
        crf_triton.update(u, messages, pooled)
    assert launched_on == [1]
    assert current == [0]  # and the caller's device is restored


INTERPRETED = """
import sys
import torch
from src.method.crf import ConvCRF
from tests.oracles.crf import plain_crf
from tests.method.test_crf import relative_error, scene

for shape in [(1, 2, 8, 8), (2, 21, 20, 36), (1, 81, 16, 24), (1, 130, 8, 12)]:
    unary, image = scene(*shape)
    got = ConvCRF(iterations=3, backend="triton")(unary, image)
    print(shape, "formula", relative_error(got, plain_crf(unary, image, 3)))
    print(shape, "torch", relative_error(got, ConvCRF(iterations=3, backend="torch")(unary, image)))
pooled_by_2 = ConvCRF(iterations=2, pooling=2, backend="triton")(unary, image)
print("pooling 2", relative_error(pooled_by_2, ConvCRF(iterations=2, pooling=2)(unary, image)))
assert "src.method.crf_triton" in sys.modules
"""

FAR_APART = """
import torch
from src.method import crf_triton

stride = 1 << 30  # of three classes: the last one begins at element 2^31
u = torch.empty_strided((1, 1, 1, 3, 1, 4), (0, 0, 4, stride, 4, 1)).copy_(torch.arange(12.0).view(3, 1, 4).sin())
messages, pooled = torch.zeros(1, 3, 3, 6), torch.empty(1, 3, 1, 4)
crf_triton.update(u, messages, pooled)
assert torch.allclose(pooled, u[0, 0].softmax(1))
"""


def test_triton_kernel_in_its_interpreter() -> None:
    """In a separate process, because importing the kernel selects the interpreter."""
    pytest.importorskip("triton")
    environment = {**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", INTERPRETED], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == 9
    for line in lines:
        assert float(line.split()[-1]) < 1e-5, line


def test_triton_kernel_finds_classes_far_apart() -> None:
    """254 classes of 2,912 x 2,912 pixels have more than 2^31 values."""
    pytest.importorskip("triton")
    environment = {**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", FAR_APART], cwd=ROOT, env=environment, capture_output=True, text=True)
    if "can't allocate memory" in done.stderr:
        pytest.skip("8 GB of address space are not available")
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@pytest.mark.parametrize("backend", ["torch", "triton"])
@pytest.mark.parametrize("shape", [(1, 2, 8, 8), (3, 21, 128, 100), (2, 81, 512, 512)])
def test_cuda_is_as_near_to_the_formula_in_float64_as_the_formula_in_float32(
    backend: str, shape: tuple[int, int, int, int]
) -> None:
    """Colours differ by many bandwidths: on large images their rounding alone changes results by more than 1e-5."""
    if backend == "triton":
        pytest.importorskip("triton")
    unary, image = (tensor.cuda() for tensor in scene(*shape))
    for iterations in (1, 3):
        exact = plain_crf(unary.double(), image.double(), iterations)
        formula = relative_error(plain_crf(unary, image, iterations), exact)
        got = ConvCRF(iterations=iterations, backend=backend)(unary, image)
        assert relative_error(got, exact) < max(2 * formula, 1e-6)
