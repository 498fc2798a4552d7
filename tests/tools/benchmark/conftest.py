"""The benchmark's tests use tiny models in the place of the large ones."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from transformers import BlipForImageTextRetrieval

from tests import tiny
from tools.benchmark import workload
from tools.benchmark.options import Options

CPU = torch.device("cpu")
SMALL = Options(image_size=64, device="cpu", repeats=1, warm_up=0)


def tiny_albef() -> BlipForImageTextRetrieval:
    """The tiny BLIP without cross-attention in its first layer."""
    model = tiny.random_blip()
    model.config.text_config.fusion_layer = 1
    model.text_encoder.encoder.layer[0].crossattention = workload.NoCrossAttention()
    return model


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    """A tiny model in the place of the large one; its vocabulary is tiny, too."""
    monkeypatch.setattr(workload, "blip_large", tiny.random_blip)
    monkeypatch.setattr(workload, "albef", tiny_albef)
    for model, layers in (("blip", range(3)), ("albef", range(1, 4))):
        monkeypatch.setitem(workload.LAYERS, model, (layers[0], layers[2]))
        monkeypatch.setitem(workload.ALL_LAYERS, model, layers)

    class Words(workload.Words):
        def __call__(self, prompts: list[str], **options: object) -> SimpleNamespace:
            tokens = super().__call__(prompts, **options)
            return SimpleNamespace(
                input_ids=tokens.input_ids % len(tiny.VOCABULARY), attention_mask=tokens.attention_mask
            )

    monkeypatch.setattr(workload, "Words", Words)
