"""The published scripts' own functions, from a user's checkout: model call, maps, CRF, shares and tuning.

The scripts run with the installed transformers. Their patch of its text encoder needs an old release; here the logits
that it saves are computed from the queries and keys of the layer, one product more per layer that is used.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterable
from functools import partial
from itertools import accumulate
from pathlib import Path
from types import ModuleType
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import BlipForImageTextRetrieval
from transformers.models.blip.modeling_blip_text import BlipTextLayer

from src.config.schema import CrfConfig, OneShotConfig
from src.errors import UserError
from tests.oracles.method import QueriesAndKeys
from tools.benchmark import workload
from tools.benchmark.options import Options
from tools.benchmark.plain import Plain
from tools.benchmark.stopwatch import Stopwatch

SEGMENT, INFOSCORE, CRF = "training_free_blip", "compute_infoscore_blip", "convcrf"
ONE_SHOT = "one_shot_tuning_blip", "one_shot_blip"  # the script's names in different commits
CLAMP = 1e-6  # "eps" of the published InfoScore


class Published(Plain):
    """The jobs of the benchmark, computed by the functions of the published scripts.

    Args:
        options: the measurement; ``published`` is the checkout.
        device: where to compute.

    Raises:
        UserError: the checkout lacks a script or a function, a script cannot be imported, or CUDA computes in bfloat16,
            which the scripts do not know.
    """

    def __init__(self, options: Options, device: torch.device) -> None:
        super().__init__(options, device)
        if device.type == "cuda" and self.number_format.autocast_dtype == torch.bfloat16:
            raise UserError("--published: on CUDA the scripts compute in float32 or float16; use --amp false or fp16")
        folder = scripts_folder(Path(options.published or ""))
        self.jobs["nothing"] = lambda watch, jpegs: None
        self.unary = _function(folder, SEGMENT, "compute_unary_from_attention")
        self.shares = _function(folder, INFOSCORE, "compute_infoscore_stats_for_layer")
        self.tune = _function(folder, _one_shot_script(folder), "oneshot_tune")
        ends = list(accumulate(self.prompts.prompts_per_class))
        spans = dict(enumerate(zip([0, *ends], ends, strict=False)))
        index = _function(folder, SEGMENT, "PromptIndex")
        self.shared: dict[str, Any] = {
            "model": self.model,
            "attention_mask": self.tokens[1],
            "prompt_index": index(list(self.prompts.prompts), list(self.prompts.class_names), spans),
            "num_classes": len(ends),
            "new_embedding_res": self.size // 16,
            "image_size": self.size,
        }
        settings = _function(folder, SEGMENT, "DEFAULT_CRF_CONF")
        on_cuda = device.type == "cuda"
        crf = _function(folder, CRF, "GaussCRF")
        self.crf: nn.Module = crf(settings, [self.size, self.size], nclasses=len(ends), use_gpu=on_cuda).to(device)
        expose_logits(self.model, self.layers)

    def tuning(self, watch: Stopwatch, jpegs: list[bytes]) -> None:
        """One optimiser step on all images."""
        labels = torch.stack(workload.random_labels(self.size, len(jpegs))).long().to(self.device)
        step = partial(
            self.tune,
            support_images=torch.cat([self._read(jpeg) for jpeg in jpegs]),
            support_labels=labels,
            input_ids=self.tokens[0],
            layers=self.layers,
            ignore_label=workload.IGNORED,
            num_iterations=1,
            lr=OneShotConfig().lr,
            weight_decay=OneShotConfig().weight_decay,
            use_amp=self.number_format.autocast_dtype is not None,
            batch_gradient_accumulation=len(jpegs),
            **self.shared,
        )
        with self._autocast():
            watch("step", step)

    def _unary(self, watch: Stopwatch, pixels: Tensor) -> Tensor:
        itm = watch("model", self._match, pixels)
        return watch("maps", partial(self.unary, itm_scores=itm, layers=self.layers, **self.shared))

    def _refine(self, unary: Tensor, pixels: Tensor) -> Tensor:
        return self.crf(unary=unary, img=pixels, num_iter=CrfConfig().iters)

    def _shares(self, watch: Stopwatch, pixels: Tensor) -> None:
        itm = watch("model", self._match, pixels)
        for layer in self.layers:
            watch("maps", partial(self.shares, itm_scores=itm, layer=layer, eps=CLAMP, **self.shared))

    def _match(self, pixels: Tensor) -> Tensor:
        """Matching scores [P], as the scripts compute them around ``compute_unary_from_attention``."""
        ids, mask = self.tokens
        found = self.model(pixel_values=pixels, input_ids=ids, attention_mask=mask, interpolate_pos_encoding=True)
        return self.model.itm_head(found.question_embeds).softmax(-1)[..., 1].amax(1)


def scripts_folder(folder: Path) -> Path:
    """``folder``, a checkout of the published code.

    Raises:
        UserError: a script is missing.
    """
    for name in (SEGMENT, INFOSCORE, CRF):
        if not (folder / f"{name}.py").is_file():
            raise UserError(f"--published {folder}: has no {name}.py; name a checkout of the published code")
    _one_shot_script(folder)
    return folder


def _one_shot_script(folder: Path) -> str:
    for name in ONE_SHOT:
        if (folder / f"{name}.py").is_file():
            return name
    raise UserError(f"--published {folder}: has neither {ONE_SHOT[0]}.py nor {ONE_SHOT[1]}.py")


def _function(folder: Path, script: str, name: str) -> Any:
    """An object of a script by its name."""
    module = _script(folder, script)
    if not hasattr(module, name):
        raise UserError(f"--published {folder}: {script}.py has no {name}; another version of the published code?")
    return getattr(module, name)


def _script(folder: Path, name: str) -> ModuleType:
    """Import a script of the checkout, which imports its neighbours by their bare names."""
    if sys.path[0] != str(folder):
        sys.path.insert(0, str(folder))  # before this project, whose scripts have the same names
    try:
        module = importlib.import_module(name)
    except Exception as error:  # whatever the user's file does
        raise UserError(f"--published {folder}: cannot import {name}.py: {type(error).__name__}: {error}") from error
    if Path(module.__file__ or "").parent != folder:
        raise UserError(f"--published {folder}: {name} was imported from {module.__file__}")
    return module


def expose_logits(model: BlipForImageTextRetrieval, layers: Iterable[int]) -> None:
    """Give the cross-attention of ``layers`` the method ``get_attention_map`` of the published patch.

    It returns the logits of the last call, [P, H, T, 1 + N].
    """
    heads = cast(Any, model.config.text_config).num_attention_heads
    for layer in layers:
        attention = cast(BlipTextLayer, model.text_encoder.encoder.layer[layer]).crossattention.self
        attention.get_attention_map = QueriesAndKeys(attention, heads).logits  # pyright: ignore[reportAttributeAccessIssue]
