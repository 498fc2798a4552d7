"""The CRF's Triton kernel, compiled for GPUs without having one: it must fit their registers."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

triton = pytest.importorskip("triton")
crf_triton = pytest.importorskip("src.method.crf_triton")

from triton.backends.compiler import GPUTarget  # noqa: E402
from triton.compiler import ASTSource  # noqa: E402

BINARIES = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
POINTERS = ("u", "messages", "pooled")
# Turing and the newest Blackwell with every shape of tile; Ampere (2), Ada, Hopper, Blackwell with the largest.
CASES = [
    *((capability, classes) for capability in (75, 120) for classes in (2, 21, 81, 254)),
    *((capability, 254) for capability in (80, 86, 89, 90, 100)),
]

pytestmark = pytest.mark.skipif(not (BINARIES / "ptxas").exists(), reason="this triton brings no ptxas")


@pytest.mark.parametrize(("capability", "classes"), CASES)
def test_the_kernel_compiles_without_spilling(
    capability: int, classes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Spilled registers go to memory, which the kernel would read and write many times."""
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / "cache"))
    padded, cells, warps = crf_triton.tile(classes)
    constants = {"CLASSES": classes, "PADDED_CLASSES": padded, "POOLING": 4, "CELLS": cells}
    names = crf_triton._update.arg_names
    signature = {n: "*fp32" if n in POINTERS else "constexpr" if n in constants else "i32" for n in names}
    source = ASTSource(crf_triton._update, signature, {(names.index(n),): value for n, value in constants.items()}, {})
    compiled = triton.compile(source, target=GPUTarget("cuda", capability, 32), options={"num_warps": warps})
    ptx = tmp_path / "kernel.ptx"
    ptx.write_text(compiled.asm["ptx"])
    (architecture,) = re.findall(r"\.target (sm_\w+)", compiled.asm["ptx"])
    assert architecture.removesuffix("a") == f"sm_{capability}"
    ptxas = BINARIES / ("ptxas-blackwell" if capability >= 100 else "ptxas")
    command = [ptxas, "-v", "--gpu-name", architecture, ptx, "-o", tmp_path / "kernel.cubin"]
    report = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    assert re.findall(r"(\d+) bytes spill (?:stores|loads)", report) == ["0", "0"], report
    (registers,) = re.findall(r"Used (\d+) registers", report)
    assert int(registers) * 32 * warps <= 65536  # of a multiprocessor: at least one program fits
