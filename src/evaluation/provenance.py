"""The origin of results: command, settings, prompts, software, hardware, commit."""

from __future__ import annotations

import dataclasses
import platform
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import transformers

from ..config.schema import Config
from ..files import REPOSITORY
from ..runtime import device_name

if TYPE_CHECKING:
    from ..method.segmenter import Segmenter


def provenance(config: Config, segmenter: Segmenter, layers: Sequence[int] | None = None) -> dict[str, Any]:
    """The origin of a result file, as plain values; ``layers`` if they are not the segmenter's."""
    device = segmenter.device
    return {
        "command": command_line(),
        "date": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "config_file": config.source,
        "config": config.to_dict(),
        "model_commit": segmenter.model.commit,
        "layers": list(segmenter.layers if layers is None else layers),
        "prompts": segmenter.prompts.prompts,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "cuda": torch.version.cuda if device.type == "cuda" else None,
        "device": device_name(device),
        "number_format": dataclasses.asdict(segmenter.number_format),
        "git_commit": git_commit(),
    }


def command_line() -> str:
    """The command of this process, quoted for a shell."""
    module = Path(sys.argv[0]).name == "__main__.py"  # python -m ...
    return shlex.join(["python", *(sys.orig_argv[1:] if module else sys.argv)])


def git_commit() -> str | None:
    """Commit of this checkout, with ``+`` if tracked files are modified; None outside a checkout."""

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(REPOSITORY), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        return git("rev-parse", "HEAD") + ("+" if git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.CalledProcessError):
        return None
