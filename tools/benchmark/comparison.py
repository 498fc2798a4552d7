"""Plain against ours, in each number format: time stage by stage, and memory."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from src.screen import say
from tools.benchmark.floors import floors
from tools.benchmark.measure import Measurement, measure_apart
from tools.benchmark.options import Options


def compare(options: Options, formats: Sequence[str]) -> None:
    """Measure plain once and ours in each of ``formats`` (values of ``--amp``), and print the comparison."""
    plain, ours = measure_apart("plain", options), measure_formats(options, formats)
    model = measure_apart("ours", dataclasses.replace(options, what="nothing", amp="false")).peak_bytes
    say(markdown(plain, ours, {numbers: floors(options, numbers) for numbers in ours}, model))


def measure_formats(options: Options, formats: Sequence[str]) -> dict[str, Measurement]:
    """Ours by number format, as torch calls it; of two ``formats`` that are the same on this machine, the first."""
    found: dict[str, Measurement] = {}
    for amp in formats:
        measured = measure_apart("ours", dataclasses.replace(options, amp=amp))
        found.setdefault(measured.numbers, measured)
    return found


def markdown(
    plain: Measurement, ours: Mapping[str, Measurement], least: Mapping[str, Mapping[str, float]], model: int
) -> str:
    """A Markdown table of seconds per image, and of memory in GiB.

    Args:
        plain: what the plain formulas took.
        ours: what this project took, by number format, in the same stages.
        least: likewise, floors of the stages that have one.
        model: bytes that the model and the libraries take.
    """
    header = " | ".join(f"ours in {numbers}, s | ratio | floor, s" for numbers in ours)
    lines = [f"| stage | plain, s | {header} |", "|---|---" + "|---|---|---" * len(ours) + "|"]

    def row(name: str, before: float, cells: Sequence[tuple[float, str]], digits: int, bold: str = "") -> None:
        shown = [f"{now:.{digits}f} | {bold}{before / now:.1f} x{bold} | {last}" for now, last in cells]
        lines.append(f"| {bold}{name}{bold} | {before:.{digits}f} | {' | '.join(shown)} |")

    for stage in next(iter(ours.values())).seconds:
        cells = [
            (found.seconds[stage], f"{least[numbers][stage]:.3f}" if stage in least[numbers] else "")
            for numbers, found in ours.items()
        ]
        row(stage, plain.seconds[stage], cells, 3)
    wholes = [(found.total, f"{sum(least[numbers].values()):.2f}") for numbers, found in ours.items()]
    row("whole", plain.total, wholes, 2, "**")
    gib = 2**30
    row("peak, GiB", plain.peak_bytes / gib, [(found.peak_bytes / gib, "") for found in ours.values()], 2)
    above = [((found.peak_bytes - model) / gib, "") for found in ours.values()]
    row(f"of it above the model's {model / gib:.2f}", (plain.peak_bytes - model) / gib, above, 2)
    return "\n".join(lines)
