"""The method's formulas, one after the other, stage by stage."""

from __future__ import annotations

import torch
from torch import Tensor

from src.config.schema import CrfConfig, OneShotConfig

# The plain formulas stand in tests/oracles and nowhere else: what the clock compares with is then exactly what the
# tests hold this project's results against.
from tests.oracles import stages
from tests.oracles.crf import plain_crf
from tests.oracles.method import plain_encode
from tests.oracles.tuning import plain_tune
from tools.benchmark import workload
from tools.benchmark.options import RUNS, Options
from tools.benchmark.stopwatch import Stopwatch


class Plain:
    """The jobs of the benchmark as the method describes them.

    Args:
        options: what is asked.
        device: where to compute.
    """

    def __init__(self, options: Options, device: torch.device) -> None:
        self.model = workload.model_on(device)
        self.prompts = workload.vocabulary(options)
        tokens = workload.Words()(self.prompts.prompts)
        self.tokens = tokens.input_ids.to(device), tokens.attention_mask.to(device)
        self.layers = workload.layers_of(options)
        self.size = options.image_size
        self.device = device
        self.jobs = {"segment": self.segment, "infoscore": self.infoscore, "tuning": self.tuning, "runs": self.runs}

    def segment(self, watch: Stopwatch, jpegs: list[bytes]) -> None:
        """One image after the other from JPEG to counted labels."""
        for jpeg in jpegs:
            pixels = watch("read", self._read, jpeg)
            itm, logits = self._look(watch, pixels)
            unary = watch("maps", stages.unary, logits, itm, self.prompts.prompts_per_class, self.size)
            scores = watch("CRF", plain_crf, unary, pixels, CrfConfig().iters)
            watch("metric", lambda scores=scores: workload.count(scores.argmax(1), scores.shape[1]))

    def infoscore(self, watch: Stopwatch, jpegs: list[bytes]) -> None:
        """All layers' shares, image by image, through full-size maps."""
        for jpeg in jpegs:
            itm, logits = self._look(watch, watch("read", self._read, jpeg))
            watch("maps", lambda itm=itm, logits=logits: [stages.shares(layer, itm, self.size) for layer in logits])

    def tuning(self, watch: Stopwatch, jpegs: list[bytes]) -> None:
        """One optimiser step on all images, differentiated through the vision tower."""
        pixels = [self._read(jpeg)[0] for jpeg in jpegs]
        labels = [each.to(self.device) for each in workload.random_labels(self.size, len(jpegs))]
        supports = list(zip(pixels, labels, strict=True))
        counts, published = self.prompts.prompts_per_class, OneShotConfig()
        rates = published.lr, published.weight_decay
        watch("step", plain_tune, self.model, *self.tokens, counts, supports, self.layers, 1, len(supports), *rates)

    def runs(self, watch: Stopwatch, jpegs: list[bytes]) -> None:
        """A query image in five runs: all of it five times."""
        for _ in range(RUNS):
            self.segment(watch, jpegs)

    def _read(self, jpeg: bytes) -> Tensor:
        return workload.read(jpeg, self.size)[None].to(self.device)

    @torch.no_grad()
    def _look(self, watch: Stopwatch, pixels: Tensor) -> tuple[Tensor, list[Tensor]]:
        embeds = watch("vision", plain_encode, self.model, pixels)
        return watch("text", stages.attend, self.model, *self.tokens, embeds, self.layers)
