"""The interface of a vision-language model: the rest of the project uses models only through it."""

from __future__ import annotations

import functools
import hashlib
from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .replacements import KeysValues, LogitsReducer, PromptStates


@dataclass(frozen=True)
class ModelOutput:
    """A model's output for B images and P prompts.

    Attributes:
        itm_logits: [B, P, T, 2] matching head at every token position, padding included; index 1 is "match".
        reduced_logits: per requested layer, its cross-attention logits after the reducer, [B, P, ...].
    """

    itm_logits: Tensor
    reduced_logits: dict[int, Tensor]


class Model(ABC):
    """A frozen model in evaluation mode and float32, whose text layers attend to image patches.

    Images are encoded without prompts and prompts without images; :meth:`attend` combines them. Shapes: B images,
    P prompts of T tokens, N = g * g patches, E positions and D values per encoded image, H heads.
    """

    name: str
    """The file, folder or hub name that it was loaded from."""

    @property
    def commit(self) -> str | None:
        """Commit of the model's files on the hub; None for a folder or a file."""
        return None

    @property
    @abstractmethod
    def layers(self) -> tuple[int, ...]:
        """Indices of the text layers with cross-attention, in the order in which they run."""

    @property
    @abstractmethod
    def patch_size(self) -> int:
        """Side of a patch, pixels."""

    @property
    @abstractmethod
    def device(self) -> torch.device: ...

    @property
    @abstractmethod
    def products(self) -> list[tuple[int, int]]:
        """(in_features, out_features) of the linear layers that take most of the time, each pair once."""

    @property
    @abstractmethod
    def exact(self) -> bool:
        """Whether operations keep the order of the published code (``runtime.attention: exact``)."""

    @abstractmethod
    def use_onednn(self, use: bool) -> None:
        """Let linear layers compute float32 products without gradients with oneDNN, or with PyTorch's default."""

    @property
    @abstractmethod
    def architecture(self) -> dict[str, dict[str, Any]]:
        """Everything besides the weights that determines the results (heads, epsilons, ...), as plain values."""

    @abstractmethod
    def state_dict(self) -> Mapping[str, Tensor]:
        """All weights by name."""

    @functools.cached_property
    def digest(self) -> str:
        """SHA-256 of the loaded weights: names, shapes and values."""
        return digest_of(self.state_dict())

    @abstractmethod
    def tokenize(self, prompts: list[str]) -> tuple[Tensor, Tensor]:
        """Token ids and attention mask of ``prompts``, both [P, T], padded to the longest.

        Raises:
            UserError: a prompt is too long, or the tokenizer does not fit the weights.
        """

    @abstractmethod
    def tokens(self, prompt: str) -> list[str]:
        """The T tokens of ``prompt`` as the vocabulary spells them, special tokens included."""

    @abstractmethod
    def unknown_words(self, words: list[str]) -> list[str]:
        """Words among ``words`` that the vocabulary cannot spell."""

    @abstractmethod
    def embeds_shape(self, patches: int) -> tuple[int, int]:
        """(E, D) of an encoded image with N = ``patches``."""

    @abstractmethod
    def encode_images(self, pixels: Tensor) -> Tensor:
        """Encode normalised ``pixels`` [B, 3, S, S] for :meth:`attend`: [B, E, D]."""

    @property
    @abstractmethod
    def word_embeddings(self) -> Tensor:
        """[V, D_text], trained by one-shot tuning."""

    @property
    @abstractmethod
    def padding_token(self) -> int | None:
        """The token whose embedding is not trained."""

    @abstractmethod
    def cross_attention(self, layer: int) -> dict[str, Tensor]:
        """Cross-attention parameters of ``layer``, trained by tuning; their names begin with ``layer.<number>.``."""

    @abstractmethod
    def encode_prompts(self, input_ids: Tensor, attention_mask: Tensor, words: Tensor | None = None) -> PromptStates:
        """Run prompts up to the first cross-attention; differentiable with respect to ``words``.

        Args:
            input_ids: [P, T].
            attention_mask: [P, T].
            words: [P, T, D_text], used instead of the model's word embeddings; modified in place.
        """

    @abstractmethod
    def keys_values(
        self, image_embeds: Tensor, layers: Sequence[int], wanted: Collection[int] = ()
    ) -> dict[int, KeysValues]:
        """Cross-attention keys and values of images [B, E, D], for those of ``layers`` where no prompt changes them.

        ``wanted`` are the layers whose logits will be requested.
        """

    @abstractmethod
    def attend(
        self,
        prompts: PromptStates,
        image_embeds: Tensor,
        layers: Sequence[int],
        reduce: LogitsReducer,
        logits_budget: int | None = None,
        known: Mapping[int, KeysValues] | None = None,
        weights: Mapping[str, Tensor] | None = None,
    ) -> ModelOutput:
        """Match every image with every prompt.

        Args:
            prompts: from :meth:`encode_prompts`.
            image_embeds: [B, E, D], from :meth:`encode_images`.
            layers: the layers whose cross-attention logits are requested: q k^T / sqrt(head_dim), before softmax,
                [B, P, H, T, 1 + N], the image's class token first.
            reduce: reduces the logits of a layer and a chunk of prompts, [B, P, H, T, 1 + N], to [B, P, ...].
            logits_budget: bytes that the logits of one layer may take at once.
            known: from :meth:`keys_values`, if computed before.
            weights: replace the model's parameters of the same names, see :meth:`cross_attention`.
        """


def digest_of(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of the names, shapes and values of ``tensors``, sorted by name."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def first_not_finite(tensors: Mapping[str, Tensor]) -> str | None:
    """The name of the first of ``tensors`` with NaN or infinity; None if all values are finite."""
    for name, tensor in tensors.items():
        # minimum and maximum: one pass without extra memory, and NaN propagates
        if tensor.is_floating_point() and tensor.numel() and not torch.stack(torch.aminmax(tensor)).isfinite().all():
            return name
    return None
