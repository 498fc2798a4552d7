"""The published computation against this project, in each number format: time stage by stage, and memory."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from src.screen import say
from tools.benchmark.floors import floors
from tools.benchmark.measure import Measurement, measure_apart
from tools.benchmark.options import Options


def compare_with_published(options: Options, formats: Sequence[str]) -> None:
    """Measure both sides in each of ``formats`` (values of ``--amp``), and print the comparison."""
    if options.published:
        # a fault of the checkout ends the benchmark before the long part
        measure_apart("published", dataclasses.replace(options, what="nothing", amp="false"))
    ours = measure_formats(options, formats)
    # what ``true`` stands for is decided once, so that both sides compute in the same format
    in_format = {numbers: dataclasses.replace(options, amp=amp_of(numbers)) for numbers in ours}
    plain = {numbers: measure_apart("plain", given) for numbers, given in in_format.items()}
    model = measure_apart("ours", dataclasses.replace(options, what="nothing", amp="false")).peak_bytes
    say(measurement_table(plain, ours, {numbers: floors(options, numbers) for numbers in ours}, model))
    if options.published:
        scripts = {numbers: measure_apart("published", given) for numbers, given in in_format.items()}
        say(f"\nThe scripts in {options.published}:\n\n{scripts_table(scripts, plain, ours)}")


def amp_of(numbers: str) -> str:
    """The value of ``--amp`` for a number format (torch's name), the same on every machine."""
    return {"float32": "false", "bfloat16": "bf16", "float16": "fp16"}[numbers]


def measure_formats(options: Options, formats: Sequence[str]) -> dict[str, Measurement]:
    """Measure this project in each of ``formats``; equal formats of this machine are measured once. By torch's name."""
    found: dict[str, Measurement] = {}
    for amp in formats:
        measured = measure_apart("ours", dataclasses.replace(options, amp=amp))
        found.setdefault(measured.numbers, measured)
    return found


def measurement_table(
    plain: Mapping[str, Measurement],
    ours: Mapping[str, Measurement],
    least: Mapping[str, Mapping[str, float]],
    model: int,
) -> str:
    """A Markdown table of seconds per image, and of memory in GiB.

    Args:
        plain: the published computation, by number format.
        ours: this project, by number format, in the same stages.
        least: floors by number format, for the stages that have one.
        model: bytes of the model and the libraries.
    """
    header = " | ".join(f"{numbers}: published, s | ours, s | ratio | floor, s" for numbers in ours)
    lines = [f"| stage | {header} |", "|---" + "|---|---|---|---" * len(ours) + "|"]
    gib = 2**30

    def row(name: str, values: Sequence[tuple[float, float, str]], digits: int, bold: str = "") -> None:
        cells = [
            f"{before:.{digits}f} | {now:.{digits}f} | {bold}{before / now:.1f} x{bold} | {last}"
            for before, now, last in values
        ]
        lines.append(f"| {bold}{name}{bold} | {' | '.join(cells)} |")

    for stage in next(iter(ours.values())).seconds:
        row(
            stage,
            [
                (plain[n].seconds[stage], ours[n].seconds[stage], f"{least[n][stage]:.3f}" if stage in least[n] else "")
                for n in ours
            ],
            3,
        )
    row("whole", [(plain[n].total, ours[n].total, f"{sum(least[n].values()):.2f}") for n in ours], 2, "**")
    row("peak, GiB", [(plain[n].peak_bytes / gib, ours[n].peak_bytes / gib, "") for n in ours], 2)
    above = [((plain[n].peak_bytes - model) / gib, (ours[n].peak_bytes - model) / gib, "") for n in ours]
    row(f"of it above the model's {model / gib:.2f}", above, 2)
    return "\n".join(lines)


def scripts_table(
    scripts: Mapping[str, Measurement], plain: Mapping[str, Measurement], ours: Mapping[str, Measurement]
) -> str:
    """A Markdown table of seconds per image: the published scripts, the baseline and this project.

    Args:
        scripts: the functions of a checkout, by number format; their stage "model" is the vision and the text encoder.
        plain: the baseline, by number format.
        ours: this project, by number format.
    """
    header = " | ".join(f"{numbers}: scripts, s | baseline, s | ours, s | scripts / ours" for numbers in scripts)
    lines = [f"| stage | {header} |", "|---" + "|---|---|---|---" * len(scripts) + "|"]
    stages = [*next(iter(scripts.values())).seconds, "**whole**"]
    for stage in stages:
        cells = []
        for numbers, side in scripts.items():
            three = [_seconds(each, stage) for each in (side, plain[numbers], ours[numbers])]
            cells.append(" | ".join([*(f"{value:.3f}" for value in three), f"{three[0] / three[2]:.1f} x"]))
        lines.append(f"| {stage} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _seconds(measured: Measurement, stage: str) -> float:
    """Of a stage of the scripts, on any side."""
    if stage == "**whole**":
        return measured.total
    parts = ("vision", "text") if stage == "model" and stage not in measured.seconds else (stage,)
    return sum(measured.seconds[part] for part in parts)
