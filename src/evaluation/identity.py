"""Everything that results depend on: a run resumes, or uses an earlier result, only if all of it is equal."""

from __future__ import annotations

import ast
import dataclasses
import hashlib
import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import PIL
import torch
import transformers

from ..config.schema import Config
from ..data.lists import ListEntry
from ..method.segmenter import Segmenter
from ..runtime import device_name
from .sources import source_files

MODEL = ("method.checkpoints", "method.crf_triton")  # the latter is imported by name

CODE = {
    "training-free": ("evaluation.evaluate", *MODEL),
    "InfoScore": ("layer_selection.ranking", *MODEL),
    "comparison of layers": ("layer_selection.comparison", *MODEL),
    "one-shot": ("one_shot.evaluation", *MODEL, "one_shot.tuning", "one_shot.embeddings"),
}
"""The modules that compute an experiment's numbers; the modules that they import count too."""

SPEAKING = ("errors.py", "screen.py")
"""Files that only print or describe errors: neither their code nor their arguments can change a number."""


def digest(values: Any) -> str:
    """SHA-256 of plain values (anything that JSON can represent); the order of keys does not matter."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def file_digest(path: Path | None) -> str | None:
    """SHA-256 of a file; None for None."""
    return None if path is None else hashlib.sha256(path.read_bytes()).hexdigest()


def fingerprint(entries: Iterable[ListEntry], masks: bool, weights: str = "") -> bytes:
    """16 bytes that identify the input of a block: paths, sizes and times of its files, and the tuned weights."""
    files = [path for entry in entries for path in (entry.image, entry.mask if masks else None)]
    return bytes.fromhex(digest([weights, *map(_file_state, files)]))[:16]


def _file_state(path: Path | None) -> list[Any]:
    try:
        status = None if path is None else os.stat(path)
    except OSError:
        status = None
    return [str(path), status and [status.st_size, status.st_mtime_ns]]


def settings_of(
    experiment: str, config: Config, segmenter: Segmenter, entries: Sequence[ListEntry], **more: Any
) -> dict[str, Any]:
    """Settings of a run as plain values, under the names of the configuration where they have one.

    Args:
        experiment: a key of :data:`CODE`.
        entries: the images, identified by path; the files' state is in the :func:`fingerprint` of each block.
        more: everything else that this run depends on.
    """
    model = segmenter.model
    return {
        "experiment": experiment,
        "list": {"images": len(entries), "paths": digest([[str(e.image), str(e.mask)] for e in entries])},
        "prompts": segmenter.prompts.prompts,
        "dataset": dataclasses.asdict(config.dataset),
        "model": {
            "name": model.name,
            "weights": model.digest,
            # not visible in the weights: heads, activation, epsilon, patch size
            **{part: digest(values) for part, values in model.architecture.items()},
            "tokens": digest([segmenter.input_ids.tolist(), segmenter.attention_mask.tolist()]),
            "image_size": config.model.image_size,
            "layers": list(segmenter.layers),
        },
        "dataloader": {"batch_size": config.dataloader.batch_size},
        "crf": {"iters": config.crf.iters},
        "eval": {"resolution": config.eval.resolution, **({"boundary": True} if config.eval.boundary else {})},
        "runtime": {
            "attention": config.runtime.attention,
            "number_format": str(segmenter.dtype or torch.float32),
            **({"products": "oneDNN"} if segmenter.number_format.onednn else {}),
        },
        "device": device_name(segmenter.device),
        "versions": {package.__name__: package.__version__ for package in (torch, transformers, np, cv2, PIL)},
        "code": code_of(experiment),
        **more,
    }


def code_of(experiment: str) -> dict[str, str]:
    """Digest of each file with code that computes ``experiment``, by path."""
    files = source_files(*CODE[experiment])
    return {name: code_digest(path.read_text(encoding="utf-8")) for name, path in files.items() if name not in SPEAKING}


def code_digest(text: str) -> str:
    """SHA-256 of source code without comments, docstrings, layout and arguments of :data:`SPEAKING` functions."""
    return digest(ast.dump(_Silent().visit(ast.parse(text))))


class _Silent(ast.NodeTransformer):
    """Removes docstrings, and the arguments of calls to functions imported from :data:`SPEAKING` files."""

    def __init__(self) -> None:
        self.speakers: set[str] = set()

    def visit_ImportFrom(self, node: ast.ImportFrom) -> ast.AST:
        if (node.module or "").split(".")[-1] in {Path(name).stem for name in SPEAKING}:
            self.speakers |= {alias.asname or alias.name for alias in node.names}
        return node

    def visit_Call(self, node: ast.Call) -> ast.AST:
        if isinstance(node.func, ast.Name) and node.func.id in self.speakers:
            return ast.Call(node.func, [], [])
        return self.generic_visit(node)

    def visit_Expr(self, node: ast.Expr) -> ast.AST:
        # docstrings, also those of constants: a string as a statement has no effect
        is_text = isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
        return ast.Pass() if is_text else self.generic_visit(node)
