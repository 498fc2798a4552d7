"""What users wait for before the first image: imports, the model, and a whole command on one image."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path

from src.errors import UserError
from src.files import REPOSITORY
from src.screen import say

IMPORTS = ("numpy", "cv2", "torch", "transformers", "src.method.blip", "training_free_blip")
CONFIG = "configs/miniature.yaml"


def startup(repeats: int) -> None:
    """Print a Markdown table of seconds, each the best of ``repeats`` new processes.

    Raises:
        UserError: a command failed.
    """
    say("| new process | seconds |\n|---|---|")
    empty = _row("python -c pass", ["-c", "pass"], repeats)
    for module in IMPORTS:
        _row(f"import {module}", ["-c", f"import {module}"], repeats, empty)
    with tempfile.TemporaryDirectory() as folder:
        script = ["training_free_blip.py", "--config", CONFIG]
        _row("training_free_blip.py --help", [script[0], "--help"], repeats)
        results = ["--output-dir", folder, "--fresh", "--device", "cpu"]
        _row(f"training_free_blip.py, one image of {Path(CONFIG).stem}", [*script, "--limit", "1", *results], repeats)


def _row(name: str, arguments: list[str], repeats: int, without: float = 0.0) -> float:
    seconds = min(_seconds(arguments) for _ in range(repeats)) - without
    say(f"| {name} | {seconds:.2f} |")
    return seconds


def _seconds(arguments: list[str]) -> float:
    start = time.perf_counter()
    done = subprocess.run([sys.executable, *arguments], cwd=REPOSITORY, capture_output=True, text=True)
    if done.returncode:
        raise UserError(f"python {' '.join(arguments)} failed: {done.stderr[-500:].strip()}")
    return time.perf_counter() - start
