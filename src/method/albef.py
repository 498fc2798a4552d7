"""Load ALBEF from a PyTorch checkpoint, or from the folder that ``python -m tools.convert albef`` writes.

ALBEF's weights fit HuggingFace's BLIP modules. Only two things differ: the epsilon of the vision encoder's layer norms,
and the first text layers, which have no cross-attention. So an ALBEF is a :class:`.blip.Blip` whose text configuration
has a ``fusion_layer``, the number of those layers.
"""

from __future__ import annotations

import json
import os
import pickle
import re
import textwrap
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.serialization import get_unsafe_globals_in_checkpoint
from transformers import BertTokenizer, BlipConfig, BlipForImageTextRetrieval, PreTrainedTokenizerBase

from ..errors import UserError
from ..files import read_regular, resolve
from .blip import MAX_TEXTS, Blip, check_folder, check_sizes, offline_note, prepare, quiet_transformers
from .model import first_not_finite

ENDINGS = (".pth", ".pt")
MODEL_TYPE = "albef"
TOKENIZER = "google-bert/bert-base-uncased"
PUBLISHED = "ALBEF.pth, ALBEF_4M.pth, mscoco.pth or flickr30k.pth"
PARTS = ("visual_encoder.", "text_encoder.", "itm_head.")  # with the dot: momentum copies begin with visual_encoder_m.
HEADS = ("text_encoder.cls.", "text_encoder.pooler.")  # on top of the text encoder; not used here
HEAD_WIDTH = 64  # of an attention head, as published
TOKEN_TYPES = "text_encoder.embeddings.token_type_embeddings.weight"

# (HuggingFace's name of a BLIP vision module, ALBEF's name); the names in the text encoder are the same.
VISION_NAMES = (
    ("vision_model.embeddings.class_embedding", "visual_encoder.cls_token"),
    ("vision_model.embeddings.position_embedding", "visual_encoder.pos_embed"),
    ("vision_model.embeddings.patch_embedding.", "visual_encoder.patch_embed.proj."),
    ("vision_model.post_layernorm.", "visual_encoder.norm."),
    ("vision_model.encoder.layers.", "visual_encoder.blocks."),
    (".layer_norm", ".norm"),
    (".self_attn.projection.", ".attn.proj."),
    (".self_attn.qkv.", ".attn.qkv."),
)


def load_albef(
    path: Path,
    name: str,
    device: torch.device,
    fused: bool = True,
    tokenizer: str | None = None,
    heads: tuple[int, int] | None = None,
) -> Blip:
    """Load a pretraining or retrieval checkpoint of ALBEF in float32. No code in the file is executed.

    Args:
        path: the checkpoint.
        name: name of the model in messages and results.
        device: where to put the model.
        fused: see :func:`.blip.prepare`.
        tokenizer: folder or hub name of bert-base-uncased's vocabulary; None: :data:`TOKENIZER`.
        heads: attention heads of the vision and of the text encoder; None: width / 64, as published.

    Raises:
        UserError: the file is missing or not such a checkpoint; its weights do not fit together or are not finite; the
            tokenizer cannot be loaded; or the installed transformers is not supported.
    """
    weights = read_checkpoint(path)
    config = _config_of(weights, path, heads)
    if TOKEN_TYPES in weights:
        # All tokens have type 0. Added to the positions, because tuning trains and decays the word embeddings.
        positions = "text_encoder.embeddings.position_embeddings.weight"
        weights[positions] = weights[positions].float() + weights.pop(TOKEN_TYPES)[0].float()
    return _assemble(config, weights, _albef_name, path, name, device, fused, _load_tokenizer(tokenizer or TOKENIZER))


def is_albef_folder(folder: Path) -> bool:
    """Whether ``folder`` contains a converted ALBEF."""
    try:
        values = json.loads(read_regular(folder / "config.json", MAX_TEXTS).decode("utf-8"))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(values, dict) and values.get("model_type") == MODEL_TYPE


def load_albef_folder(folder: Path, name: str, device: torch.device, fused: bool = True) -> Blip:
    """Load a folder that ``python -m tools.convert albef`` wrote.

    Raises:
        UserError: see :func:`load_albef`.
    """
    check_folder(folder)
    try:
        values = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        text, vision = values["text_config"], values["vision_config"]
        check_sizes(values, name)
        config = BlipConfig(text_config={**text, "fusion_layer": int(text["fusion_layer"])}, vision_config=vision)
        weights = load_file(folder / "model.safetensors")
        tokenizer = _load_tokenizer(str(folder))
        return _assemble(config, weights, lambda key: key, folder, name, device, fused, tokenizer)
    except UserError:
        raise
    except Exception as error:  # transformers raises many kinds for values that it does not know
        raise UserError(
            f"model folder {folder} cannot be loaded: {_short(error)}; "
            "convert the checkpoint again: python -m tools.convert albef"
        ) from error


def read_checkpoint(path: Path) -> dict[str, Tensor]:
    """Read the weights that are used, in the file's number format, under their names in a retrieval checkpoint.

    Raises:
        UserError: ``path`` is missing or damaged, contains code, or is not an ALBEF with a matching head.
    """
    if not os.path.isfile(path):  # unlike Path.is_file, it accepts names that are too long
        raise UserError(f"model.name: the checkpoint {path} does not exist; give a file, a folder or a hub name")
    zipped = zipfile.is_zipfile(path)
    try:
        unsafe = get_unsafe_globals_in_checkpoint(path) if zipped else []
        if unsafe:
            raise UserError(
                f"checkpoint {path} contains code ({', '.join(sorted(unsafe))}), which is not executed; "
                f"use a published file ({PUBLISHED}), or one with tensors and plain values only"
            )
        saved: Any = torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
    except (OSError, RuntimeError, ValueError, EOFError, KeyError, pickle.UnpicklingError, AttributeError) as error:
        reason = str(error).replace("\n", " ").partition("Please file an issue")[0]
        raise UserError(
            f"checkpoint {path} cannot be read as weights saved by PyTorch: {_short(reason)}; download it again"
        ) from error
    found: Any = saved["model"] if isinstance(saved, dict) and "model" in saved else saved
    if not isinstance(found, dict) or not all(isinstance(key, str) for key in found):
        raise UserError(
            f"checkpoint {path} contains a {type(found).__name__}; expected a dict of weights, as in {PUBLISHED}"
        )
    weights = {
        re.sub(r"^text_encoder\.bert\.", "text_encoder.", key): value
        for key, value in found.items()
        if key.startswith(PARTS) and isinstance(value, Tensor) and not key.endswith(".position_ids")
    }
    weights = {key: value for key, value in weights.items() if not key.startswith(HEADS)}
    for part in PARTS:
        if not any(key.startswith(part) for key in weights):
            others = sorted({key.partition(".")[0] for key in found} - {part.rstrip(".")})
            raise UserError(
                f"checkpoint {path} is not an ALBEF with a matching head: it has no {part}* "
                f"(found: {', '.join(others[:6]) or 'nothing else'}); use {PUBLISHED}"
            )
    return weights


def _config_of(weights: Mapping[str, Tensor], path: Path, heads: tuple[int, int] | None) -> BlipConfig:
    """Derive the configuration of BLIP's modules from the shapes of ``weights``."""

    def shape(key: str, *dimensions: str) -> list[int]:
        size = list(weights[key].shape) if key in weights else None
        if size is None or len(size) != len(dimensions):
            found = "is missing" if size is None else f"has shape {size}"
            raise UserError(f"checkpoint {path}: {key} {found}; expected [{', '.join(dimensions)}]")
        return size

    def layers(prefix: str) -> int:
        return len({key.removeprefix(prefix).partition(".")[0] for key in weights if key.startswith(prefix)})

    text, vision = "text_encoder.encoder.layer.", "visual_encoder.blocks."
    vision_width, _, patch, _ = shape("visual_encoder.patch_embed.proj.weight", "width", "3", "patch", "patch")
    _, positions, _ = shape("visual_encoder.pos_embed", "1", "1 + patches", "width")
    grid = round((positions - 1) ** 0.5)
    if grid < 1 or 1 + grid**2 != positions:
        raise UserError(f"checkpoint {path}: visual_encoder.pos_embed has {positions} positions; expected 1 + a square")
    words, text_width = shape("text_encoder.embeddings.word_embeddings.weight", "words", "width")
    crossing = [int(key.removeprefix(text).partition(".")[0]) for key in weights if ".crossattention." in key]
    if not crossing or min(crossing) == 0:
        found = "has no cross-attention in its text layers" if not crossing else "has cross-attention in text layer 0"
        hint = "" if not crossing else ", like BLIP (for BLIP use the hub: Salesforce/blip-itm-large-coco)"
        raise UserError(f"checkpoint {path} {found}{hint}; in ALBEF it begins at a later layer: use {PUBLISHED}")
    vision_heads, text_heads = heads or (_heads(vision_width, path), _heads(text_width, path))
    for part, width, count in (("vision", vision_width, vision_heads), ("text", text_width, text_heads)):
        if width % count:
            raise UserError(f"model.heads: {count} does not divide {width}, the width of the {part} encoder of {path}")
    return BlipConfig(
        text_config={
            "vocab_size": words,
            "hidden_size": text_width,
            "num_attention_heads": text_heads,
            "num_hidden_layers": layers(text),
            "intermediate_size": shape(f"{text}0.intermediate.dense.weight", "inner width", "width")[0],
            "max_position_embeddings": shape(
                "text_encoder.embeddings.position_embeddings.weight", "positions", "width"
            )[0],
            "layer_norm_eps": 1e-12,
            "bos_token_id": None,
            "sep_token_id": None,
            "fusion_layer": min(crossing),
        },
        vision_config={
            "hidden_size": vision_width,
            "num_attention_heads": vision_heads,
            "num_hidden_layers": layers(vision),
            "intermediate_size": shape(f"{vision}0.mlp.fc1.weight", "inner width", "width")[0],
            "image_size": grid * patch,
            "patch_size": patch,
            "layer_norm_eps": 1e-6,
        },
    )


def _heads(width: int, path: Path) -> int:
    if width % HEAD_WIDTH:
        raise UserError(
            f"checkpoint {path}: an encoder's width is {width}, not a multiple of {HEAD_WIDTH}, so its number of "
            "attention heads is unknown; set model.heads to [heads of the vision encoder, heads of the text encoder]"
        )
    return width // HEAD_WIDTH


def _albef_name(key: str) -> str:
    """ALBEF's name of the parameter that HuggingFace's BLIP calls ``key``."""
    if key.startswith("vision_model."):
        for blip, albef in VISION_NAMES:
            key = key.replace(blip, albef)
    return key


def _assemble(
    config: BlipConfig,
    weights: dict[str, Tensor],
    name_in_file: Callable[[str], str],
    path: Path,
    name: str,
    device: torch.device,
    fused: bool,
    tokenizer: PreTrainedTokenizerBase,
) -> Blip:
    """Build BLIP's modules from ``weights``; missing and unused weights are errors."""
    with torch.random.fork_rng(devices=[]):
        model = BlipForImageTextRetrieval(config)
    del model.vision_proj, model.text_proj
    fusion_layer: int = getattr(config.text_config, "fusion_layer", 0)
    for layer in model.text_encoder.encoder.layer[:fusion_layer]:
        del layer.crossattention
    expected = {name_in_file(key): (key, value) for key, value in model.state_dict().items()}
    for key, (_, value) in expected.items():
        if key not in weights:
            raise UserError(f"model {path} has no {key}; expected shape {list(value.shape)}")
        if weights[key].shape != value.shape:
            raise UserError(f"model {path}: {key} has shape {list(weights[key].shape)}; expected {list(value.shape)}")
    extra = sorted(weights.keys() - expected.keys())
    if extra:
        more = f" and {len(extra) - 1} more" if extra[1:] else ""
        shape = list(weights[extra[0]].shape)
        raise UserError(
            f"model {path} has {extra[0]} of shape {shape}{more}, which ALBEF does not have; use {PUBLISHED}"
        )
    bad = first_not_finite(weights)
    if bad:
        raise UserError(f"model {path}: weight {bad} contains NaN or infinity; download it again")
    model.load_state_dict({key: weights[albef] for albef, (key, _) in expected.items()})
    prepare(model, fused)
    torch.nn.Module.to(model, device)
    return Blip(model, tokenizer, name)


def _load_tokenizer(name: str) -> PreTrainedTokenizerBase:
    folder = resolve(name)
    local = os.path.isdir(folder)
    if local:
        check_folder(folder)
        remedy = "the folder must contain vocab.txt or tokenizer.json of bert-base-uncased"
    elif name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise UserError(f"model.tokenizer {name}: the folder {folder} does not exist; give a folder or a hub name")
    else:
        remedy = (
            f"run `hf download {name}` on a machine with network access, or set model.tokenizer to a folder with "
            "bert-base-uncased's vocab.txt, or to a BLIP in the cache, such as Salesforce/blip-itm-large-coco"
        )
    try:
        with quiet_transformers():
            # vocab.txt alone does not say that it is lower case, and transformers' default changed between releases
            alone = local and not any(folder.glob("tokenizer*.json"))
            options: dict[str, Any] = {"do_lower_case": True} if alone else {}
            tokenizer = BertTokenizer.from_pretrained(str(folder) if local else name, **options)
    except Exception as error:  # transformers and the hub client raise many kinds; all mean: not loadable
        raise UserError(f"tokenizer {name} cannot be loaded{offline_note()}: {_short(error)}; {remedy}") from error
    if tokenizer.unk_token_id in tokenizer("image of", add_special_tokens=False).input_ids:
        # without a vocabulary, transformers makes one of special tokens alone
        raise UserError(f"tokenizer {name} cannot be loaded{offline_note()}: it has no vocabulary; {remedy}")
    if tokenizer("Image").input_ids != tokenizer("image").input_ids:
        raise UserError(f"tokenizer {name} is case-sensitive; ALBEF needs the vocabulary of bert-base-uncased")
    return tokenizer


def _short(reason: object) -> str:
    return textwrap.shorten(str(reason), 200, placeholder=" ...")
