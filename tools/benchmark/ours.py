"""The computation of this project, stage by stage."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import cast

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from src.config.schema import CrfConfig, OneShotConfig
from src.data.frame import Frame
from src.layer_selection.infoscore import InfoScore, layer_shares
from src.method.blip import Blip, prepare
from src.method.crf import ConvCRF
from src.method.segmenter import Segmenter, labels_of, shared_keys_values
from src.one_shot.tuning import LabelledImage, tune
from tools.benchmark import workload
from tools.benchmark.options import AMP, RUNS, Options
from tools.benchmark.stopwatch import Stopwatch


class Ours:
    """The jobs of the benchmark, computed by this project.

    Args:
        options: the measurement.
        device: where to compute.
    """

    def __init__(self, options: Options, device: torch.device) -> None:
        tokenizer = cast(PreTrainedTokenizerBase, cast(object, workload.Words()))
        blip = Blip(prepare(workload.model_on(device, options)), tokenizer, f"random {options.model}")
        crf = ConvCRF(iterations=CrfConfig().iters)
        prompts, layers = workload.benchmark_prompts(options), workload.layers_of(options)
        self.segmenter = Segmenter(blip, prompts, layers, Frame(options.image_size), crf, AMP[options.amp])
        runs = RUNS if options.what == "runs" else 0
        self.tuned = [self.segmenter.with_weights(self.segmenter.untuned_weights()) for _ in range(runs)]
        self.device = device
        self.number_format = self.segmenter.number_format
        self.jobs = {
            "segment": self.segment,
            "infoscore": self.infoscore,
            "tuning": self.tuning,
            "runs": self.runs,
            "nothing": self.nothing,
        }

    def segment(self, watch: Stopwatch, jpegs: list[bytes]) -> None:
        """One batch from JPEG to counted labels."""
        self._segment(watch, jpegs, [self.segmenter])

    @torch.no_grad()
    def _segment(self, watch: Stopwatch, jpegs: list[bytes], segmenters: Sequence[Segmenter]) -> None:
        pixels = watch("read", self._read, jpegs)
        embeds = watch("vision", self.segmenter.encode_images, pixels)
        known = watch("text", shared_keys_values, segmenters, embeds) if len(segmenters) > 1 else None
        for segmenter in segmenters:
            attended = watch("text", partial(segmenter.attend, embeds, known=known))
            unary = watch("maps", segmenter.unary, attended)
            scores = watch("CRF", segmenter.refine, unary, pixels)
            watch("metric", lambda scores=scores: workload.count(labels_of(scores), scores.shape[1]))

    def infoscore(self, watch: Stopwatch, jpegs: list[bytes]) -> None:
        """All layers' scores of one batch."""
        segmenter = self.segmenter
        pixels = watch("read", self._read, jpegs)
        with torch.no_grad():
            embeds = watch("vision", segmenter.encode_images, pixels)
            attended = watch("text", segmenter.attend, embeds)
            scores = InfoScore(segmenter.layers, segmenter.frame.size)
            shares = watch("maps", layer_shares, attended, segmenter.layers, segmenter.frame.size)
            watch("maps", scores.add, shares)

    def tuning(self, watch: Stopwatch, jpegs: list[bytes]) -> None:
        """One optimiser step on encoded images; encoding is done once per run and not timed."""
        embeds = [self.segmenter.encode_images(self._read([jpeg]))[0] for jpeg in jpegs]
        labels = [each.to(self.device) for each in workload.random_labels(self.segmenter.frame.size, len(jpegs))]
        images = [LabelledImage(*pair) for pair in zip(embeds, labels, strict=True)]
        one_step = OneShotConfig(num_iterations=1, batch_gradient_accumulation=len(images))
        watch("step", tune, self.segmenter, images, one_step, workload.IGNORED, "tuning")

    def runs(self, watch: Stopwatch, jpegs: list[bytes]) -> None:
        """A query image with the weights of five runs: read and encoded once."""
        self._segment(watch, jpegs, self.tuned)

    def nothing(self, watch: Stopwatch, jpegs: list[bytes]) -> None:
        """Load the model only, to measure its memory."""

    def _read(self, jpegs: list[bytes]) -> Tensor:
        return torch.stack([workload.decode_photo(jpeg, self.segmenter.frame.size) for jpeg in jpegs]).to(self.device)
