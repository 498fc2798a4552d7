"""Lower bound of each stage's time: its matrix products at a measured rate, its memory at a measured copy rate."""

from __future__ import annotations

import torch

from src.config.schema import CrfConfig
from src.method.precision import onednn_exists
from src.method.replacements import onednn_linear
from src.runtime import choose_device
from tools.benchmark.options import RUNS, STEP_IMAGES, Options
from tools.benchmark.stopwatch import best_of
from tools.benchmark.workload import ALL_LAYERS, LAYERS, Words, benchmark_prompts

VISION = {"blip": (24, 1024), "albef": (12, 768)}  # layers and width


def floors(options: Options, numbers: str) -> dict[str, float]:
    """Least seconds per image of each stage of the job with PyTorch's products.

    Args:
        options: the job.
        numbers: the format of the encoders' products, as torch calls it; the CRF computes in float32 in any case.
    """
    device = choose_device(options.device)
    rate, crf_rate, copy = matmul_rate(device, numbers), matmul_rate(device, "float32"), copy_rate(device)
    prompts = benchmark_prompts(options)
    tokens = Words()(prompts.prompts).input_ids.numel()
    classes, size, patches = len(prompts.class_names), options.image_size, 1 + (options.image_size // 16) ** 2
    depth, width = VISION[options.model]
    vision = depth * 2 * (12 * patches * width**2 + 2 * patches**2 * width)
    keys_values = 2 * patches * width * 768
    # layers before the first cross-attention run once for all images
    text = len(ALL_LAYERS[options.model]) * 2 * (14 * tokens * 768**2 + keys_values + 2 * tokens * patches * 768)
    iterations, full_size = CrfConfig().iters, 4 * classes * size**2
    crf = max(iterations * 2 * 225 * classes * (size // 4) ** 2 / crf_rate, iterations * full_size / copy)
    once = full_size / copy
    least = {"vision": vision / rate, "text": text / rate, "maps": once, "CRF": crf, "metric": once}
    if options.what == "infoscore":
        del least["CRF"], least["metric"]
        least["maps"] = 0.0  # patch maps: next to nothing
    if options.what == "tuning":
        least = {"step": STEP_IMAGES * 2 * text / rate}  # forward and backward
    if options.what == "runs":
        least = {stage: seconds * (1 if stage == "vision" else RUNS) for stage, seconds in least.items()}
        # layers whose keys and values all runs share
        untuned = len(ALL_LAYERS[options.model]) - len(LAYERS[options.model])
        least["text"] -= (RUNS - 1) * untuned * 2 * keys_values / rate
    return least


def matmul_rate(device: torch.device, numbers: str) -> float:
    """Floating-point operations per second of one large product in a number format, by the fastest library."""
    a = torch.randn(2048, 2048, device=device).to(getattr(torch, numbers))
    seconds = best_of(lambda: a @ a, device)
    if device.type == "cpu" and numbers == "float32" and onednn_exists():
        seconds = min(seconds, best_of(lambda: onednn_linear(a, a), device))
    return 2 * 2048**3 / seconds


def copy_rate(device: torch.device) -> float:
    """Bytes per second read by one large copy."""
    a = torch.empty(64 * 2**20, device=device)
    b = torch.empty_like(a)
    return a.nbytes / best_of(lambda: b.copy_(a), device)
