"""Tuned weights as files: a safetensors file with what changed, and a JSON that says where it comes from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from src.errors import UserError
from src.method.segmenter import Segmenter
from src.result_files import write_json, write_result


def save_tuned(path: Path, segmenter: Segmenter, origin: dict[str, Any]) -> None:
    """Write the tuned weights of ``segmenter`` to ``path`` (.safetensors) and ``origin`` to the JSON beside it."""
    made_for = _made_for(segmenter)
    tensors = {name: tensor.cpu().contiguous() for name, tensor in segmenter.weights.items()}
    tensors["token_ids"] = segmenter.token_ids.cpu()
    write_result(path, save(tensors, metadata={"made_for": json.dumps(made_for)}))
    write_json(path.with_suffix(".json"), {**made_for, **origin})


def load_tuned(path: Path, segmenter: Segmenter) -> Segmenter:
    """``segmenter`` with the tuned weights of ``path``.

    Raises:
        UserError: the file is missing or not such a file, or was made for another model, prompt set or layers.
    """
    try:
        with safe_open(path, framework="pt") as file:
            made_for = json.loads((file.metadata() or {})["made_for"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no dictionary)
    except FileNotFoundError:
        raise UserError(f"--tuned {path} does not exist; one_shot_blip.py writes such files") from None
    except (SafetensorError, KeyError, OSError, ValueError) as error:
        raise UserError(
            f"--tuned {path} is no file of tuned weights, as one_shot_blip.py writes them ({error})"
        ) from error
    present = _made_for(segmenter)
    remedies = {
        "weights": f"was made for other weights: {made_for['model']} (SHA-256 {made_for['weights'][:12]}), but "
        f"{present['model']} is SHA-256 {present['weights'][:12]}",
        "prompts": "was made for another prompt set; the class file and --multi_prompt must be as when it was tuned",
        "layers": f"was made for layers {made_for['layers']}, not {present['layers']}; set model.layers to these",
    }
    for key, text in remedies.items():
        if made_for[key] != present[key]:
            raise UserError(f"--tuned {path} {text}")
    if tensors.pop("token_ids").tolist() != segmenter.token_ids.tolist():
        raise UserError(f"--tuned {path} was made with another vocabulary than {present['model']} has now")
    return segmenter.with_weights({name: tensor.to(segmenter.device) for name, tensor in tensors.items()})


def _made_for(segmenter: Segmenter) -> dict[str, Any]:
    return {
        "model": segmenter.blip.name,
        "weights": segmenter.blip.digest,
        "prompts": segmenter.prompts.prompts,
        "layers": list(segmenter.layers),
    }
