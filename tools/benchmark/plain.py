"""The computation of the published code, step by step: the baseline of the benchmark (docs/speed.md)."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

from src.config.schema import CrfConfig, OneShotConfig
from src.method.precision import number_format

# The plain formulas are in tests/oracles, so that the timed baseline is exactly what the tests compare results with.
from tests.oracles import stages
from tests.oracles.crf import plain_crf
from tests.oracles.method import plain_encode
from tests.oracles.tuning import plain_tune
from tools.benchmark import workload
from tools.benchmark.options import AMP, RUNS, Options
from tools.benchmark.stopwatch import Stopwatch


class Plain:
    """The jobs of the benchmark, computed as in the published code.

    Args:
        options: the measurement; its ``amp`` names a number format. As published, autocast is on around the model, the
            matching head and the maps, in tuning too, and off around the CRF and the metric.
        device: where to compute.
    """

    def __init__(self, options: Options, device: torch.device) -> None:
        self.model = workload.model_on(device, options)
        self.prompts = workload.benchmark_prompts(options)
        tokens = workload.Words()(self.prompts.prompts)
        self.tokens = tokens.input_ids.to(device), tokens.attention_mask.to(device)
        self.layers = workload.layers_of(options)
        self.size = options.image_size
        self.device = device
        self.number_format = number_format(AMP[options.amp], device, [])
        self.jobs = {"segment": self.segment, "infoscore": self.infoscore, "tuning": self.tuning, "runs": self.runs}

    @torch.no_grad()
    def segment(self, watch: Stopwatch, jpegs: list[bytes]) -> None:
        """One image after the other from JPEG to counted labels."""
        for jpeg in jpegs:
            pixels = watch("read", self._read, jpeg)
            with self._autocast():
                unary = self._unary(watch, pixels)
            scores = watch("CRF", self._refine, unary, pixels)
            watch("metric", lambda scores=scores: workload.count(scores.argmax(1), scores.shape[1]))

    @torch.no_grad()
    def infoscore(self, watch: Stopwatch, jpegs: list[bytes]) -> None:
        """All layers' shares, image by image, through full-size maps."""
        for jpeg in jpegs:
            pixels = watch("read", self._read, jpeg)
            with self._autocast():
                self._shares(watch, pixels)

    def tuning(self, watch: Stopwatch, jpegs: list[bytes]) -> None:
        """One optimiser step on all images, differentiated through the vision tower."""
        pixels = [self._read(jpeg)[0] for jpeg in jpegs]
        labels = [each.to(self.device) for each in workload.random_labels(self.size, len(jpegs))]
        supports = list(zip(pixels, labels, strict=True))
        counts, published = self.prompts.prompts_per_class, OneShotConfig()
        rates = published.lr, published.weight_decay
        with self._autocast():
            watch("step", plain_tune, self.model, *self.tokens, counts, supports, self.layers, 1, len(supports), *rates)

    def runs(self, watch: Stopwatch, jpegs: list[bytes]) -> None:
        """A query image in five runs: everything is computed five times."""
        for _ in range(RUNS):
            self.segment(watch, jpegs)

    def _read(self, jpeg: bytes) -> Tensor:
        return workload.decode_photo(jpeg, self.size)[None].to(self.device)

    def _unary(self, watch: Stopwatch, pixels: Tensor) -> Tensor:
        itm, logits = self._attend(watch, pixels)
        return watch("maps", stages.unary, logits, itm, self.prompts.prompts_per_class, self.size)

    def _refine(self, unary: Tensor, pixels: Tensor) -> Tensor:
        return plain_crf(unary.float(), pixels, CrfConfig().iters)

    def _shares(self, watch: Stopwatch, pixels: Tensor) -> None:
        itm, logits = self._attend(watch, pixels)
        watch("maps", lambda: [stages.shares(layer, itm, self.size) for layer in logits])

    def _attend(self, watch: Stopwatch, pixels: Tensor) -> tuple[Tensor, list[Tensor]]:
        embeds = watch("vision", plain_encode, self.model, pixels)
        return watch("text", stages.attend, self.model, *self.tokens, embeds, self.layers)

    def _autocast(self) -> AbstractContextManager:
        dtype = self.number_format.autocast_dtype
        return nullcontext() if dtype is None else torch.autocast(self.device.type, dtype)
