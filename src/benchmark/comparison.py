"""Both sides, one after the other: time stage by stage, and memory."""

from __future__ import annotations

import dataclasses

from src.benchmark.floors import floors
from src.benchmark.measure import Measurement, measure_apart
from src.benchmark.options import Options
from src.screen import say


def compare(options: Options) -> None:
    """Measure both sides and print the comparison."""
    ours, plain = measure_apart("ours", options), measure_apart("plain", options)
    model = measure_apart("ours", dataclasses.replace(options, what="nothing")).peak_bytes
    say(f"plain in {plain.numbers}, ours in {ours.numbers}")
    say(markdown(plain, ours, floors(options, ours.numbers), model))


def markdown(plain: Measurement, ours: Measurement, least: dict[str, float], model: int) -> str:
    """A Markdown table of seconds per image, and of memory in GiB.

    Args:
        plain: what the plain formulas took.
        ours: what this project took, in the same stages.
        least: floors of the stages that have one.
        model: bytes that the model and the libraries take.
    """
    lines = ["| stage | plain, s | ours, s | ratio | floor, s |", "|---|---|---|---|---|"]
    for stage, seconds in ours.seconds.items():
        before = plain.seconds[stage]
        floor = f"{least[stage]:.3f}" if stage in least else ""
        lines.append(f"| {stage} | {before:.3f} | {seconds:.3f} | {before / seconds:.1f} x | {floor} |")
    ratio, floor = plain.total / ours.total, sum(least.values())
    lines.append(f"| **whole** | {plain.total:.2f} | {ours.total:.2f} | **{ratio:.1f} x** | {floor:.2f} |")
    bare, *peaks = (size / 2**30 for size in (model, plain.peak_bytes, ours.peak_bytes))
    lines.append(f"| peak, GiB | {peaks[0]:.2f} | {peaks[1]:.2f} | {peaks[0] / peaks[1]:.1f} x | {bare:.2f} (model) |")
    above = [peak - bare for peak in peaks]
    lines.append(f"| of it above the model, GiB | {above[0]:.2f} | {above[1]:.2f} | {above[0] / above[1]:.1f} x | |")
    return "\n".join(lines)
