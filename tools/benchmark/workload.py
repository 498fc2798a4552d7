"""The input of both sides: a random model of BLIP-large's or ALBEF's shape, prompts, synthetic photos and labels."""

from __future__ import annotations

import io
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from transformers import BlipConfig, BlipForImageTextRetrieval
from transformers.models.blip.modeling_blip_text import BlipTextLayer

from src.data.frame import Frame
from src.errors import UserError
from src.evaluation.metrics import ConfusionMatrix
from src.files import REPOSITORY
from src.method.prompts import PromptSet, build_prompts, read_class_file
from tools.benchmark.options import CLASSES, Options

LAYERS = {"blip": (0, 3), "albef": (8, 9)}
ALL_LAYERS = {"blip": range(12), "albef": range(6, 12)}
ITM_SPREAD, LOGITS_SPREAD = 10.0, 3.0
IGNORED = 255


class Words:
    """A substitute for BERT's tokenizer, which is not available offline: one token per word, as for most words."""

    unk_token_id = 100

    def __call__(self, prompts: list[str], **_: Any) -> Any:
        # "Image of x." -> [CLS] image of x . [SEP]
        words = [prompt.removesuffix(".").split() for prompt in prompts]
        rows = [[101, *(1000 + sum(map(ord, word)) % 20000 for word in some), 1012, 102] for some in words]
        longest = max(map(len, rows))
        ids = torch.tensor([row + [0] * (longest - len(row)) for row in rows])
        return SimpleNamespace(input_ids=ids, attention_mask=(ids != 0).long())


def blip_large() -> BlipForImageTextRetrieval:
    """blip-itm-large's architecture with random weights (HuggingFace's own vision range would be 1e-10)."""
    torch.manual_seed(0)
    text = {"hidden_size": 768, "encoder_hidden_size": 1024, "num_attention_heads": 12, "num_hidden_layers": 12}
    vision = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16}
    config = BlipConfig(
        text_config={**text, "intermediate_size": 3072, "vocab_size": 30524, "initializer_range": 0.04},
        vision_config={**vision, "image_size": 384, "patch_size": 16, "initializer_range": 0.04},
        image_text_hidden_size=256,
    )
    return BlipForImageTextRetrieval(config).eval()


class NoCrossAttention(nn.Module):
    """Replaces the missing cross-attention of ALBEF's first layers; HuggingFace's BLIP calls it in every layer."""

    def forward(self, hidden: Tensor, **_: Any) -> tuple[Tensor, None]:
        """``hidden``, unchanged."""
        return hidden, None


def albef() -> BlipForImageTextRetrieval:
    """ALBEF's architecture with random weights, in HuggingFace's BLIP modules."""
    torch.manual_seed(0)
    config = BlipConfig(
        text_config={
            "num_attention_heads": 12,
            "vocab_size": 30522,
            "initializer_range": 0.04,
            "fusion_layer": ALL_LAYERS["albef"][0],
            "bos_token_id": None,
        },
        vision_config={"image_size": 384, "patch_size": 16, "initializer_range": 0.04, "layer_norm_eps": 1e-6},
    )
    model = BlipForImageTextRetrieval(config).eval()
    for layer in list(model.text_encoder.encoder.layer)[: ALL_LAYERS["albef"][0]]:
        cast(nn.Module, layer).add_module("crossattention", NoCrossAttention())
    return model


@torch.no_grad()
def model_on(device: torch.device, options: Options) -> BlipForImageTextRetrieval:
    """:func:`blip_large` or :func:`albef` on a device.

    For InfoScore its matching scores and logits are spread: prompts that may fall below the clamp cost extra, and a
    random model has none. On the miniature 96 to 98 % of images and layers have such prompts, on average 25 of 49;
    spread, all 24 of two photos and twelve layers have, on average 40.
    """
    model = albef() if options.model == "albef" else blip_large()
    if options.what == "infoscore":
        model.itm_head.weight.mul_(ITM_SPREAD)
        layers = cast("list[BlipTextLayer]", list(model.text_encoder.encoder.layer))
        for layer in layers[ALL_LAYERS[options.model][0] :]:
            layer.crossattention.self.query.weight.mul_(LOGITS_SPREAD)
    nn.Module.to(model, device)  # in place; transformers' own ``to`` hides from type checkers what it takes
    return model


def layers_of(options: Options) -> tuple[int, ...]:
    """The text layers of the job; InfoScore ranks all layers."""
    return tuple(ALL_LAYERS[options.model]) if options.what == "infoscore" else LAYERS[options.model]


def benchmark_prompts(options: Options) -> PromptSet:
    """The prompts of the benchmark; ``options.prompts`` is reached by repeating words of the vocabulary.

    Raises:
        UserError: the vocabulary has more words than that.
    """
    path = REPOSITORY / f"configs/classes/{options.vocabulary}.json"
    prompts = build_prompts(read_class_file(path, CLASSES[options.vocabulary]), options.multi_prompt)
    extra = (options.prompts or len(prompts)) - len(prompts)
    if extra < 0:
        raise UserError(f"--prompts {options.prompts}: {options.vocabulary} alone has {len(prompts)}; ask for as many")
    words = prompts.words + tuple(prompts.words[n % len(prompts)] for n in range(extra))
    if options.all_classes:
        return PromptSet(words, words, (1,) * len(words))
    # the last class gets the rest: classes determine the size of the maps, prompts the work of the text encoder
    counts = (*prompts.prompts_per_class[:-1], prompts.prompts_per_class[-1] + extra)
    return PromptSet(prompts.class_names, words, counts)


def photo(seed: int) -> bytes:
    """A JPEG of a VOC photo's size with smooth structure and noise."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (12, 16, 3), dtype=np.uint8))
    smooth = np.asarray(coarse.resize((500, 375), Image.Resampling.BICUBIC))
    pixels = np.clip(smooth + rng.normal(0, 8, (375, 500, 3)), 0, 255).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=92)
    return buffer.getvalue()


def decode_photo(jpeg: bytes, size: int) -> Tensor:
    """Decode, letterbox and normalise: [3, S, S]."""
    with Image.open(io.BytesIO(jpeg)) as image:
        pixels = np.asarray(image.convert("RGB"))
    return Frame(size).image(pixels)


def random_labels(size: int, images: int) -> list[Tensor]:
    """Label maps [S, S] with a few classes."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.randint(0, 5, (images, 8, 8), generator=generator, dtype=torch.uint8)
    return list(coarse.repeat_interleave(size // 8, 1).repeat_interleave(size // 8, 2))


def count(labels: Tensor, num_classes: int) -> None:
    """Count labels [B, S, S] against a ground truth: the work of the metric."""
    ConfusionMatrix(num_classes, IGNORED, labels.device).update(labels, labels)
