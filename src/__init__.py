"""Segmentation From Attention. From Python: ``from segmentation_from_attention import Segmenter``."""

import importlib
import os
from typing import Any

from .files import give_user_a_name

give_user_a_name()

# How often a thread of GNU OpenMP looks for the others before it sleeps; read when torch is imported. By
# default they look on for milliseconds, in which none of them works: beside a busy process the miniature is tuned
# (configs/miniature_one_shot.yaml, crf.iters=0) at 5 steps a second, with this setting at 8; alone at 19 and 17. Never
# to look on makes 12 of either. BLIP-large is the same with any of them, as long as no other process is busy.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")


def __getattr__(name: str) -> Any:
    """``Segmenter`` is imported when it is first used: commands start without torch."""
    if name == "Segmenter":
        return importlib.import_module(".photos.api", __name__).PhotoSegmenter
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
