"""Save and load tuned weights: a safetensors file with the changed tensors, and a JSON with their origin."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from ..errors import UserError, reason_of
from ..evaluation.identity import file_digest
from ..files import require_regular
from ..method.model import digest_of, first_not_finite
from ..method.segmenter import Segmenter
from ..result_files import write_json, write_result

MAX_BYTES = 1 << 34  # of a file of tuned weights


def save_tuned(path: Path, segmenter: Segmenter, origin: dict[str, Any]) -> None:
    """Write the tuned weights of ``segmenter`` to ``path`` (.safetensors) and ``origin`` to the JSON next to it."""
    made_for = MadeFor.of(segmenter)
    tensors = {name: tensor.cpu().contiguous() for name, tensor in segmenter.weights.items()}
    tensors["token_ids"] = segmenter.token_ids.cpu()
    metadata = {"made_for": json.dumps(vars(made_for)), "checksum": digest_of(tensors)}
    write_result(path, _ordered(save(tensors, metadata=metadata)))
    write_json(path.with_suffix(".json"), {**vars(made_for), **origin})


def _ordered(data: bytes) -> bytes:
    """A safetensors file with a sorted header, so that equal weights give equal files."""
    length = int.from_bytes(data[:8], "little")
    header = json.dumps(json.loads(data[8 : 8 + length]), sort_keys=True, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    return len(header).to_bytes(8, "little") + header + data[8 + length :]


def load_tuned(path: Path, segmenter: Segmenter) -> Segmenter:
    """``segmenter`` with the tuned weights of ``path``.

    Raises:
        UserError: the file is missing, damaged or of another kind, or was made for another model, prompt set or layers.
    """
    try:
        require_regular(path, MAX_BYTES)
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors: dict[str, Tensor] = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no dict)
        made_for = MadeFor.parse(metadata["made_for"])
        checksum = metadata["checksum"]
    except FileNotFoundError:
        raise UserError(f"--tuned {path} does not exist; one_shot_blip.py writes such files") from None
    except KeyError as error:
        raise _not_tuned_weights(path, f"its metadata lack {error}") from error
    except (SafetensorError, OSError, ValueError, RecursionError) as error:
        raise _not_tuned_weights(path, reason_of(error)) from error
    if digest_of(tensors) != checksum:
        raise UserError(f"--tuned {path} is damaged: its tensors differ from the saved ones (SHA-256); tune again")
    _check_fit(path, made_for, MadeFor.of(segmenter))
    _check_tensors(path, tensors, {**segmenter.untuned_weights(), "token_ids": segmenter.token_ids})
    if tensors.pop("token_ids").tolist() != segmenter.token_ids.tolist():
        raise UserError(
            f"--tuned {path} was made with another vocabulary than that of {segmenter.model.name}; use the tokenizer "
            "files of that time, or tune again"
        )
    return segmenter.with_weights({name: tensor.to(segmenter.device) for name, tensor in tensors.items()})


def describe_tuned(path: Path | None) -> dict[str, str | None] | None:
    """For result files: the path and SHA-256 of the tuned weights that were used; None for None."""
    return None if path is None else {"file": str(path), "sha256": file_digest(path)}


@dataclass(frozen=True)
class MadeFor:
    """The model, prompts and layers that tuned weights belong to.

    Attributes:
        model: the model's name, for messages.
        weights: digest of its weights before tuning.
        prompts: all prompts, in order.
        layers: the layers whose cross-attention was tuned.
    """

    model: str
    weights: str
    prompts: list[str]
    layers: list[int]

    @classmethod
    def of(cls, segmenter: Segmenter) -> MadeFor:
        """Model, prompts and layers of ``segmenter``."""
        model = segmenter.model
        return cls(model.name, model.digest, segmenter.prompts.prompts, list(segmenter.layers))

    @classmethod
    def parse(cls, text: str) -> MadeFor:
        """The inverse of ``json.dumps(vars(...))``; raises ValueError for other texts."""
        values = json.loads(text)
        hints = {"model": str, "weights": str, "prompts": list, "layers": list}
        if not isinstance(values, dict) or values.keys() != hints.keys():
            raise ValueError(f"its metadata do not say what it was made for: expected {', '.join(hints)}")
        wrong = [name for name, hint in hints.items() if type(values[name]) is not hint]
        if wrong:
            raise ValueError(f"its metadata are malformed: {wrong[0]} is {values[wrong[0]]!r}")
        return cls(**values)


def _not_tuned_weights(path: Path, reason: object) -> UserError:
    return UserError(f"--tuned {path} is not a file of tuned weights from one_shot_blip.py ({reason})")


def _check_fit(path: Path, made_for: MadeFor, present: MadeFor) -> None:
    """Refuse weights that were made for another model, prompt set or layers than the ``present`` ones."""
    remedies = {
        "weights": f"was made for other weights: {made_for.model} (SHA-256 {made_for.weights[:12]}), but "
        f"{present.model} has SHA-256 {present.weights[:12]}; set model.name to the model that was tuned",
        "prompts": "was made for another prompt set; use the class file and --multi_prompt of the tuning command",
        "layers": f"was made for layers {made_for.layers}, not {present.layers}; set model.layers to {made_for.layers}",
    }
    for name, text in remedies.items():
        if getattr(made_for, name) != getattr(present, name):
            raise UserError(f"--tuned {path} {text}")


def _check_tensors(path: Path, tensors: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    """Refuse tensors that are missing, unexpected, of another shape or dtype, or not finite."""
    for name, like in expected.items():
        if name not in tensors:
            raise _not_tuned_weights(path, f"it lacks the tensor {name}")
        got = tensors[name]
        if (got.shape, got.dtype) != (like.shape, like.dtype):
            raise _not_tuned_weights(path, f"{name} is {_kind(got)}; expected {_kind(like)}")
    extra = sorted(tensors.keys() - expected.keys())
    if extra:
        raise _not_tuned_weights(path, f"it has an unexpected tensor {extra[0]}")
    bad = first_not_finite(tensors)
    if bad:
        raise UserError(f"--tuned {path}: {bad} contains NaN or infinity; tune again")


def _kind(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"
