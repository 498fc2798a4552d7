"""Segmentation From Attention. In Python: ``from segmentation_from_attention import Segmenter``."""

import importlib
import os
from typing import Any

from .files import give_user_a_name

give_user_a_name()

# How many times a thread of GNU OpenMP checks for the others before it sleeps; read when torch is imported. By default
# idle threads spin for milliseconds, which wastes cores that other processes need. Tuning on the miniature
# (configs/miniature_one_shot.yaml, crf.iters=0), steps per second beside a busy process / on an idle machine:
# default 5 / 19, this value 8 / 17, no spinning 12 / 12. On an idle machine BLIP-large is equally fast with all three.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")

if os.environ.get("WORLD_SIZE"):
    # where a process of a job ends, PyTorch would print its C++ stack, which hides the line of the error
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")


def __getattr__(name: str) -> Any:
    """Import ``Segmenter`` at first use, so that commands start without torch."""
    if name == "Segmenter":
        return importlib.import_module(".photos.api", __name__).PhotoSegmenter
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
