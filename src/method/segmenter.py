"""The method on images: encode, attend with all prompts, make class maps, refine.

A :class:`Segmenter` binds a model to a prompt set. It encodes an image once (:meth:`Segmenter.encode_images`) and can
then attend to it (:meth:`Segmenter.attend`) with any prompts and layers.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..config.schema import Amp, Config
from ..data.frame import Frame
from ..data.images import ImageLike, to_rgb
from ..errors import UserError
from ..runtime import MAX_WORKING_BYTES, working_memory
from . import attention
from .crf import ConvCRF
from .model import Model
from .precision import number_format
from .prompts import PromptSet
from .replacements import KeysValues, LogitsReducer, PromptStates, modeling_blip_text

ALL_FINITE = torch.iinfo(torch.int64).max

NEVER = -1e30
"""Score of a class that no pixel may get; finite, because scores are interpolated."""


@dataclass(frozen=True)
class PatchAttention:
    """The text encoder's output for B images.

    Attributes:
        itm: [B, P] matching score of every prompt.
        token_logits: per chosen layer, cross-attention logits [B, P, N] reduced over heads and tokens.
    """

    itm: Tensor
    token_logits: dict[int, Tensor]

    def prompt_maps(self, layer: int) -> Tensor:
        """[B, P, N] softmax over prompts, weighted by itm, of one layer."""
        return attention.prompt_maps(self.token_logits[layer], self.itm)


@dataclass(frozen=True)
class ImageAnalysis:
    """The segmentation of one image into C classes, at the image's own size.

    Attributes:
        class_names: C names; the first is the background's.
        labels: uint8 [height, width], indices into ``class_names``.
        itm: [C] best matching score of the prompts of each class, 0 to 1.
        unary: [C, S, S] class probabilities in the frame, before the CRF.
        frame: in which the image was segmented.
        embeds: [1, 1 + N, D] the encoded image, to segment it again with other prompts.
        background: whether a pixel may be labelled background.
    """

    class_names: tuple[str, ...]
    labels: np.ndarray
    itm: list[float]
    unary: Tensor
    frame: Frame
    embeds: Tensor
    background: bool = True

    @cached_property
    def shares(self) -> list[float]:
        """[C] fraction of the image's pixels in each class."""
        return (np.bincount(self.labels.ravel(), minlength=len(self.itm)) / self.labels.size).tolist()

    def heat_map(self, name: str | int) -> np.ndarray:
        """The probability of a class at each pixel, before the CRF: float32 [height, width].

        Args:
            name: name or index of the class.

        Raises:
            KeyError: no class is called ``name``.
        """
        if isinstance(name, str):
            if name not in self.class_names:
                raise KeyError(f"{name!r} is not one of the classes {', '.join(self.class_names)}")
            name = self.class_names.index(name)
        height, width = self.labels.shape
        return self.frame.undo(self.unary[name][None], (height, width))[0].cpu().numpy()


@dataclass(frozen=True)
class FrameAnalysis:
    """The segmentation of one image of a batch, in the frame; its tensors are views of the batch's.

    Attributes: as of :class:`ImageAnalysis`, but instead of labels
        scores: [C, S, S] class scores, refined by the CRF if the segmenter has one.
    """

    class_names: tuple[str, ...]
    scores: Tensor
    itm: list[float]
    unary: Tensor
    frame: Frame
    embeds: Tensor
    background: bool = True

    def at(self, shape: tuple[int, int]) -> ImageAnalysis:
        """The analysis at the image's own ``shape`` (height, width), without the memory of the batch's other images."""
        labels = self.frame.labels(self.scores, shape).cpu().numpy()
        unary, embeds = _alone(self.unary), _alone(self.embeds)
        return ImageAnalysis(self.class_names, labels, self.itm, unary, self.frame, embeds, self.background)


def _alone(part: Tensor) -> Tensor:
    """A copy of ``part`` if it is a view of a larger batch."""
    return part if part.untyped_storage().nbytes() == part.nbytes else part.clone()


class Segmenter:
    """A model, a prompt set and the settings that turn images into class scores.

    Args:
        model: the model.
        prompts: the prompt set.
        layers: text layers whose attention is averaged.
        frame: resizes images to side S, normalises them, and maps results back to an image's own size.
        crf: the refinement, or None.
        amp: ``runtime.amp`` of the configuration, see :func:`src.method.precision.number_format`.

    Attributes:
        input_ids: [P, T] tokens of the prompts.
        attention_mask: [P, T] 0 for padding.
        token_ids: [R] the distinct ``input_ids``, sorted.
        weights: tensors that replace parameters of the text encoder, see :meth:`with_weights`.
    """

    def __init__(
        self,
        model: Model,
        prompts: PromptSet,
        layers: Sequence[int],
        frame: Frame,
        crf: ConvCRF | None = None,
        amp: Amp = False,
    ) -> None:
        self.model = model
        self.prompts = prompts
        self.layers = tuple(layers)
        self.frame = frame
        self.crf = crf
        self.number_format = number_format(amp, model.device, model.products, model.exact)
        model.use_onednn(self.number_format.onednn)
        self.input_ids, self.attention_mask = model.tokenize(prompts.prompts)
        self.token_ids, self._rows = self.input_ids.unique(return_inverse=True)
        ids, padding = self.token_ids.tolist(), model.padding_token
        self._padding_row = ids.index(padding) if padding in ids else None
        self.weights: Mapping[str, Tensor] = {}
        self._states: PromptStates | None = None
        self._attended = 0  # images since the last check
        self._first_bad: Tensor | None = None  # index of the first with NaN or infinity, or ALL_FINITE; on the device
        self._watched: tuple[Path, ...] = ()  # their files, where known

    @classmethod
    def from_config(cls, config: Config, model: Model, prompts: PromptSet, layers: Sequence[int]) -> Segmenter:
        """Build a segmenter with a configuration's frame, CRF and number format."""
        crf = ConvCRF(iterations=config.crf.iters) if config.crf.iters else None
        return cls(model, prompts, layers, Frame.from_config(config), crf, config.runtime.amp)

    def with_weights(self, weights: Mapping[str, Tensor]) -> Segmenter:
        """A copy of this segmenter with other text encoder weights; the model and this segmenter do not change.

        Args:
            weights: ``word_embeddings`` [R, D] of :attr:`token_ids`, and parameters of the text encoder's layers by
                their names, such as ``layer.0.crossattention.self.query.weight``. Tuning computes their gradients.
        """
        other = copy.copy(self)
        other.weights = weights
        other._states = other._first_bad = None
        other._attended, other._watched = 0, ()
        return other

    def untuned_weights(self) -> dict[str, Tensor]:
        """Copies of the model's weights that one-shot tuning changes, in the form of :meth:`with_weights`.

        Of the word embeddings, only the rows of :attr:`token_ids`: no other row affects a result. The row of the
        padding token gets no gradient, as in HuggingFace's embedding, but weight decay applies to it.
        """
        weights = {"word_embeddings": self.model.word_embeddings.detach()[self.token_ids]}
        for layer in self.layers:
            for name, parameter in self.model.cross_attention(layer).items():
                weights[name] = parameter.detach().clone()
        return weights

    @property
    def device(self) -> torch.device:
        return self.model.device

    @property
    def dtype(self) -> torch.dtype | None:
        """The number format of autocast; None without autocast (float32)."""
        return self.number_format.autocast_dtype

    @property
    def num_patches(self) -> int:
        """N, the number of patches in the frame."""
        return (self.frame.size // self.model.patch_size) ** 2

    @torch.no_grad()
    def encode_images(self, pixels: Tensor) -> Tensor:
        """Run the vision encoder: normalised ``pixels`` [B, 3, S, S] to embeddings [B, 1 + N, D]."""
        with self._autocast():
            return self.model.encode_images(pixels)

    def encode_prompts(self) -> PromptStates:
        """Run the prompts up to the first cross-attention; differentiable with respect to :attr:`weights`."""
        words = None
        if "word_embeddings" in self.weights:
            # the embedding of padding is not trained, as in HuggingFace's model
            words = F.embedding(self._rows, self.weights["word_embeddings"], padding_idx=self._padding_row)
        with self._autocast():
            return self.model.encode_prompts(self.input_ids, self.attention_mask, words)

    def attend(
        self,
        image_embeds: Tensor,
        layers: Sequence[int] | None = None,
        prompts: PromptStates | None = None,
        known: Mapping[int, KeysValues] | None = None,
    ) -> PatchAttention:
        """Match encoded images with all prompts.

        Args:
            image_embeds: [B, 1 + N, D].
            layers: those whose attention is kept (default: the segmenter's).
            prompts: from :meth:`encode_prompts`, to get their gradients. By default they are computed for the first
                image and kept: a segmenter's weights do not change.
            known: from :func:`shared_keys_values`, if several segmenters attend to the same images.
        """
        layers = self.layers if layers is None else layers
        attended = self._match(image_embeds, layers, attention.sum_over_tokens, prompts, known)
        self._note_bad(attended)
        return attended

    @torch.no_grad()
    def head_logits(self, image_embeds: Tensor, layer: int) -> Tensor:
        """Logits of one layer before :func:`src.method.attention.sum_over_tokens`: every head and token by itself.

        Args:
            image_embeds: [B, 1 + N, D].
            layer: its number.

        Returns:
            [B, P, H, T, N], without the class token; 0 for padded tokens.
        """
        attended = self._match(image_embeds, [layer], lambda logits, mask: logits[..., 1:] * mask[:, None, :, None])
        self._note_bad(attended)
        return attended.token_logits[layer]

    def _match(
        self,
        image_embeds: Tensor,
        layers: Sequence[int],
        reduce: LogitsReducer,
        prompts: PromptStates | None = None,
        known: Mapping[int, KeysValues] | None = None,
    ) -> PatchAttention:
        """Match images with all prompts; ``reduce`` decides what is kept of the logits."""
        with self._autocast():
            output = self.model.attend(
                self._prompt_states() if prompts is None else prompts,
                image_embeds,
                layers,
                reduce,
                self._logits_budget(),
                known,
                {name: value for name, value in self.weights.items() if name != "word_embeddings"},
            )
            return PatchAttention(attention.itm_scores(output.itm_logits), output.reduced_logits)

    @contextmanager
    def watch(self, images: Sequence[Path]) -> Iterator[None]:
        """Context in which these images are attended to once, so that :meth:`check_numbers` can name the first bad one.

        An error undoes the record: after running out of memory, a batch is computed again in halves.
        """
        before = self._attended, self._first_bad
        try:
            yield
        except BaseException:
            self._attended, self._first_bad = before
            raise
        self._watched += tuple(images)

    def check_numbers(self) -> None:
        """Check that everything computed since the last check is finite; synchronises with the device.

        NaN would silently become background.

        Raises:
            UserError: an activation exceeded the range of the number format, or the weights are not finite.
        """
        first = ALL_FINITE if self._first_bad is None else int(self._first_bad)
        images = self._watched
        self._attended, self._first_bad, self._watched = 0, None, ()
        if first != ALL_FINITE:
            where = f" for image {images[first]}" if first < len(images) else ""
            raise UserError(
                f"{self.model.name} in {self.number_format.name}: the text encoder's output{where} is not a number; "
                f"{self.number_format.remedy}"
            )

    @torch.no_grad()
    def _note_bad(self, attended: PatchAttention) -> None:
        """Note the index of the first image with NaN or infinity, on the device: no synchronisation."""
        # one sum per image is enough: no sum of finite values exceeds the range of float32 here
        sums = [part.flatten(1).sum(1) for part in (attended.itm, *attended.token_logits.values())]
        finite = torch.stack(sums).isfinite().all(0)  # [B]
        positions = torch.arange(self._attended, self._attended + len(finite), device=finite.device)
        first = positions.masked_fill(finite, ALL_FINITE).min()
        self._first_bad = first if self._first_bad is None else torch.minimum(self._first_bad, first)
        self._attended += len(finite)

    def layer_class_maps(self, attended: PatchAttention, layer: int) -> Tensor:
        """Class maps [B, C, N] of one layer at the patch grid."""
        prompts = self.prompts
        return attention.class_maps(attended.prompt_maps(layer), prompts.prompts_per_class, prompts.background)

    def unary(self, attended: PatchAttention, layers: Sequence[int] | None = None) -> Tensor:
        """Class probabilities [B, C, S, S] from the attention of ``layers`` (default: the segmenter's)."""
        maps = [self.layer_class_maps(attended, layer) for layer in (self.layers if layers is None else layers)]
        return attention.class_probabilities(maps, self.frame.size)

    @torch.no_grad()
    def segment(
        self, pixels: Tensor, image_embeds: Tensor | None = None, known: Mapping[int, KeysValues] | None = None
    ) -> Tensor:
        """Class scores [B, C, S, S] of normalised ``pixels`` [B, 3, S, S]; see :func:`labels_of`.

        Call :meth:`check_numbers` after one or more batches to detect NaN.

        Args:
            pixels: [B, 3, S, S].
            image_embeds: the encoded images, if :meth:`encode_images` was called before.
            known: as in :meth:`attend`.
        """
        embeds = self.encode_images(pixels) if image_embeds is None else image_embeds
        return self.refine(self.unary(self.attend(embeds, known=known)), pixels)

    def analyse_image(self, image: ImageLike, embeds: Tensor | None = None) -> ImageAnalysis:
        """Run the model once on one image; the analysis has labels and heat maps at the image's own size.

        Args:
            image: a path, a Pillow image, or an array: see :func:`src.data.images.to_rgb`.
            embeds: from an earlier analysis of the same image, so that only the text encoder runs again.

        Raises:
            UserError: see :func:`src.data.images.to_rgb` and :meth:`check_numbers`.
        """
        rgb = to_rgb(image)
        (seen,) = self.analyse_batch(self.frame.image(rgb)[None], embeds)
        return seen.at((rgb.shape[0], rgb.shape[1]))

    @torch.no_grad()
    def analyse_batch(self, pixels: Tensor, embeds: Tensor | None = None) -> list[FrameAnalysis]:
        """Run the model on B images that are in the frame already.

        Args:
            pixels: [B, 3, S, S], normalised, on any device.
            embeds: [B, 1 + N, D], the encoded images, if :meth:`encode_images` was called before.

        Raises:
            UserError: see :meth:`check_numbers`.
        """
        pixels = pixels.to(self.device)
        embeds = self.encode_images(pixels) if embeds is None else embeds
        attended = self.attend(embeds)
        self.check_numbers()
        unary = self.unary(attended)
        scores = self.refine(unary, pixels)
        prompts = self.prompts
        best = [itm.amax(1) for itm in attended.itm.split(list(prompts.prompts_per_class), 1)]
        itm = torch.stack(best, 1).tolist()  # one transfer: each synchronises with the GPU
        return [
            FrameAnalysis(
                prompts.class_names, scores[i], itm[i], unary[i], self.frame, embeds[i : i + 1], prompts.background
            )
            for i in range(len(pixels))
        ]

    def refine(self, unary: Tensor, pixels: Tensor) -> Tensor:
        """Apply the CRF, if any, to ``unary`` [B, C, S, S] of images ``pixels`` [B, 3, S, S].

        With ``background: false`` class 0 is left out and its score is :data:`NEVER`.
        """
        classes = unary if self.prompts.background else unary[:, 1:]
        scores = classes if self.crf is None else self.crf(classes, pixels)
        return scores if self.prompts.background else F.pad(scores, (0, 0, 0, 0, 1, 0), value=NEVER)

    def _logits_budget(self) -> int:
        # logits, their softmax and a copy of it in the number format
        least = 3 * modeling_blip_text.LOGITS_BUDGET_BYTES
        return max(1, working_memory(self.device, MAX_WORKING_BYTES, least) // 3)

    @torch.no_grad()
    def _prompt_states(self) -> PromptStates:
        if self._states is None:
            self._states = self.encode_prompts()
        return self._states

    def _autocast(self) -> AbstractContextManager:
        return torch.autocast(self.device.type, self.dtype or torch.bfloat16, enabled=self.dtype is not None)


@torch.no_grad()
def shared_keys_values(segmenters: Sequence[Segmenter], image_embeds: Tensor) -> dict[int, KeysValues]:
    """Keys and values of images ``image_embeds`` [B, 1 + N, D] in the layers whose weights ``segmenters`` share.

    Segmenters of one model made by :meth:`Segmenter.with_weights` share most layers. With BLIP-large at 512 px keys
    and values take 6 MB per image and layer (float32).
    """
    changed = {name.removeprefix("layer.").split(".")[0] for each in segmenters for name in each.weights}
    first = segmenters[0]
    shared = [layer for layer in first.model.layers if str(layer) not in changed]
    with first._autocast():
        return first.model.keys_values(image_embeds, shared, first.layers)


def segment_with_each(segmenters: Sequence[Segmenter], pixels: Tensor, image_embeds: Tensor) -> Iterator[Tensor]:
    """Yield :meth:`Segmenter.segment` of each of ``segmenters``, all of one model; shared layers are computed once."""
    known = shared_keys_values(segmenters, image_embeds)
    for segmenter in segmenters:
        yield segmenter.segment(pixels, image_embeds, known)


def labels_of(scores: Tensor) -> Tensor:
    """Argmax over classes, the first of equal scores: [..., C, H, W] to uint8 [..., H, W]."""
    # On the CPU, PyTorch's argmax over a dimension other than the last takes six times as long as its max.
    return scores.max(-3).indices.to(torch.uint8)
