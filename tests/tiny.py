"""A tiny random BLIP, a tiny data set and a configuration for both, to run the whole method in a second."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from PIL import Image
from torch import nn
from transformers import BertTokenizer, BlipConfig, BlipForImageTextRetrieval

SIZE = 64  # side of the letterbox frame
PATCH = 16
LAYERS = 4
CLASSES = [
    {"name": "sky", "related_word": ["wall", "red wall"], "id": 0},
    {"name": "cat", "related_word": ["cats", "kitten"], "id": 1},
    {"name": "dog", "id": 2},
    {"name": "red mug", "related_word": ["mug"], "id": 3},
]
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
WORDS = ["image", "of", ".", "sky", "wall", "red", "cat", "##s", "kit", "##ten", "dog", "mug"]
VOCABULARY = SPECIAL + WORDS


def random_blip(seed: int = 0) -> BlipForImageTextRetrieval:
    """A BLIP of a few thousand weights whose attention is far from uniform and whose biases are not zero.

    By default HuggingFace draws vision weights with a deviation of 1e-10: such a tower ignores its image.
    """
    config = BlipConfig(
        text_config={
            "vocab_size": len(VOCABULARY),
            "hidden_size": 24,
            "encoder_hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": LAYERS,
            "num_attention_heads": 2,
            "max_position_embeddings": 12,
            "initializer_range": 0.35,
            "bos_token_id": 2,
            "sep_token_id": 3,
        },
        vision_config={
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "image_size": 48,  # not the image size of the tests: position embeddings are interpolated
            "patch_size": PATCH,
            "initializer_range": 0.2,
        },
        image_text_hidden_size=16,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = BlipForImageTextRetrieval(config)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.ndim == 1:
                    parameter.add_(0.2 * torch.randn_like(parameter))
            nn.init.normal_(model.itm_head.weight, std=0.5)
    return model.eval()


def save_model(folder: Path, model: nn.Module | None = None) -> Path:
    """Write a model (default: :func:`random_blip`) and its tokenizer to ``folder`` as HuggingFace does."""
    folder.mkdir(parents=True, exist_ok=True)
    vocabulary = folder / "vocab.txt"
    vocabulary.write_text("\n".join(VOCABULARY) + "\n")
    BertTokenizer(vocab=str(vocabulary)).save_pretrained(folder)
    (model or random_blip()).save_pretrained(folder)
    return folder


def random_scene(rng: np.random.Generator, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """A noisy image [h, w, 3] of two coloured boxes, and its labels [h, w] with an ignored border around each box."""
    pixels = np.empty((height, width, 3), np.uint8)
    pixels[:] = rng.integers(0, 256, 3)
    labels = np.zeros((height, width), np.uint8)
    for label in rng.choice(np.arange(1, len(CLASSES)), 2, replace=False):
        top, left = rng.integers(0, height // 2), rng.integers(0, width // 2)
        box = np.s_[top : top + height // 2, left : left + width // 2]
        pixels[box] = rng.integers(0, 256, 3)
        labels[box] = 255
        inner = np.s_[top + 2 : top + height // 2 - 2, left + 2 : left + width // 2 - 2]
        labels[inner] = label
    noise = rng.integers(-20, 21, pixels.shape)
    return np.clip(pixels + noise, 0, 255).astype(np.uint8), labels


def save_mask(path: Path, labels: np.ndarray, palette: bool) -> Path:
    """Write labels as a grey PNG, or as a palette PNG with unrelated colours."""
    path.parent.mkdir(parents=True, exist_ok=True)
    mask = Image.fromarray(labels)
    if palette:
        mask = mask.convert("L")
        mask.putpalette(np.random.default_rng(0).integers(0, 256, 768, dtype=np.uint8).tobytes())
    mask.save(path)
    return path


def make_data(root: Path, sizes: Sequence[tuple[int, int]] = ((90, 120), (120, 77), (80, 80)), seed: int = 0) -> Path:
    """Write a data set of images of ``sizes`` (height, width) with masks, a list and a class file below ``root``."""
    rng = np.random.default_rng(seed)
    lines = []
    for number, (height, width) in enumerate(sizes):
        pixels, labels = random_scene(rng, height, width)
        image, mask = root / "images" / f"{number}.jpg", root / "masks" / f"{number}.png"
        image.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(image, quality=95)
        save_mask(mask, labels, palette=number % 2 == 0)
        lines.append(f"{image.relative_to(root)} {mask.relative_to(root)}\n")
    (root / "val.txt").write_text("".join(lines))
    (root / "classes.json").write_text(json.dumps(CLASSES))
    return root


def config_values(root: Path, folder: Path, /, **sections: Any) -> dict[str, Any]:
    """Keys and values of a configuration for :func:`make_data` and :func:`save_model`; ``sections`` are merged in."""
    values: dict[str, Any] = {
        "data_set": "pascal",
        "data_root": str(root),
        "val_list": str(root / "val.txt"),
        "class_name_dir": str(root / "classes.json"),
        "dataset": {"num_classes": len(CLASSES)},
        "model": {"name": str(folder), "image_size": SIZE, "layers": [0, 2]},
        "crf": {"iters": 2},
        "runtime": {"amp": False},
        "output": {"csv": str(root / "results" / "iou.csv")},
    }
    for key, value in sections.items():
        values[key] = {**values.get(key, {}), **value} if isinstance(value, dict) else value
    return values


def write_config(path: Path, values: dict[str, Any]) -> Path:
    """Write a configuration as YAML."""
    path.write_text(yaml.safe_dump(values))
    return path
