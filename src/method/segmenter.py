"""The method on images: encode once, ask with all prompts, map, refine.

A :class:`Segmenter` binds a model to a prompt set. An image is encoded once (:meth:`Segmenter.encode_images`); what the
text encoder's layers see in it (:meth:`Segmenter.attend`) can then be asked for any prompts and layers.
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
from .replacements import KeysValues, PromptStates, modeling_blip_text

NONE_LOST = torch.iinfo(torch.int64).max


NEVER = -1e30
"""Score of what no pixel may be labelled with; finite, because scores are interpolated."""


@dataclass(frozen=True)
class PatchAttention:
    """What the text encoder sees in B images.

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
    """What a segmenter finds in one image, C classes at the image's own size.

    Attributes:
        class_names: C names; the first is the background's.
        labels: uint8 [height, width], numbers of ``class_names``.
        itm: [C] best matching score of the prompts of each class, 0 to 1.
        unary: [C, S, S] class probabilities in the frame, before the CRF.
        frame: in which the image was segmented.
        embeds: [1, 1 + N, D] the encoded image, of which other prompts can be asked.
    """

    class_names: tuple[str, ...]
    labels: np.ndarray
    itm: list[float]
    unary: Tensor
    frame: Frame
    embeds: Tensor

    @cached_property
    def shares(self) -> list[float]:
        """[C] share of the image's pixels that each class has."""
        return (np.bincount(self.labels.ravel(), minlength=len(self.itm)) / self.labels.size).tolist()

    def heat_map(self, name: str | int) -> np.ndarray:
        """Where the attention sees a class, before the CRF: its probability, float32 [height, width].

        Args:
            name: of the class, or its number.

        Raises:
            KeyError: no class is called ``name``.
        """
        if isinstance(name, str):
            if name not in self.class_names:
                raise KeyError(f"{name!r} is none of the classes {', '.join(self.class_names)}")
            name = self.class_names.index(name)
        height, width = self.labels.shape
        return self.frame.undo(self.unary[name][None], (height, width))[0].cpu().numpy()


@dataclass(frozen=True)
class FrameAnalysis:
    """What a segmenter finds in one image of a batch, C classes in the frame; its tensors are parts of the batch's.

    Attributes:
        class_names: C names; the first is the background's.
        scores: [C, S, S] class scores, refined by the CRF if there is one.
        itm: [C] best matching score of the prompts of each class, 0 to 1.
        unary: [C, S, S] class probabilities, before the CRF.
        frame: in which the image was segmented.
        embeds: [1, 1 + N, D] the encoded image.
    """

    class_names: tuple[str, ...]
    scores: Tensor
    itm: list[float]
    unary: Tensor
    frame: Frame
    embeds: Tensor

    def at(self, shape: tuple[int, int]) -> ImageAnalysis:
        """The same at the image's own ``shape`` (height, width); it keeps nothing of the batch's other images."""
        labels = self.frame.labels(self.scores, shape).cpu().numpy()
        return ImageAnalysis(self.class_names, labels, self.itm, _alone(self.unary), self.frame, _alone(self.embeds))


def _alone(part: Tensor) -> Tensor:
    """``part`` without the rest of the batch that it is a view of."""
    return part if part.untyped_storage().nbytes() == part.nbytes else part.clone()


class Segmenter:
    """A model, a prompt set and the settings that turn images into class scores.

    Args:
        model: the model.
        prompts: the prompt set.
        layers: text layers whose attention is averaged.
        frame: what images are put into: side S, normalisation, and the way back to an image's own size.
        crf: the refinement, or None.
        amp: ``runtime.amp`` of the configuration, see :func:`src.runtime.number_format`.

    Attributes:
        input_ids: [P, T] tokens of the prompts.
        attention_mask: [P, T] 0 for padding.
        token_ids: [R] the different ones among ``input_ids``, sorted.
        weights: what the text encoder computes with instead of the model's own, see :meth:`with_weights`.
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
        self.number_format = number_format(amp, model.device, model.products)
        self.input_ids, self.attention_mask = model.tokenize(prompts.prompts)
        self.token_ids, self._rows = self.input_ids.unique(return_inverse=True)
        ids, padding = self.token_ids.tolist(), model.padding_token
        self._padding_row = ids.index(padding) if padding in ids else None
        self.weights: Mapping[str, Tensor] = {}
        self._states: PromptStates | None = None
        self._attended = 0  # images since the last check
        self._first_lost: Tensor | None = None  # the first of them that was no number, or NONE_LOST; on the device
        self._watched: tuple[Path, ...] = ()  # their files, where they are known

    @classmethod
    def from_config(cls, config: Config, model: Model, prompts: PromptSet, layers: Sequence[int]) -> Segmenter:
        """A segmenter with a configuration's frame, CRF and number format."""
        crf = ConvCRF(iterations=config.crf.iters) if config.crf.iters else None
        return cls(model, prompts, layers, Frame.from_config(config), crf, config.runtime.amp)

    def with_weights(self, weights: Mapping[str, Tensor]) -> Segmenter:
        """This segmenter with other weights of the text encoder; the model and this segmenter stay as they are.

        Args:
            weights: ``word_embeddings`` [R, D] of :attr:`token_ids`, and parameters of the text encoder's layers by
                their names, such as ``layer.0.crossattention.self.query.weight``. Tuning asks for their gradients.
        """
        other = copy.copy(self)
        other.weights = weights
        other._states = other._first_lost = None
        other._attended, other._watched = 0, ()
        return other

    @property
    def device(self) -> torch.device:
        return self.model.device

    @property
    def dtype(self) -> torch.dtype | None:
        """Of the number format under autocast; None is float32 without it."""
        return self.number_format.autocast_dtype

    @property
    def num_patches(self) -> int:
        """N, patches of the frame."""
        return (self.frame.size // self.model.patch_size) ** 2

    @torch.no_grad()
    def encode_images(self, pixels: Tensor) -> Tensor:
        """Run the vision encoder: normalised ``pixels`` [B, 3, S, S] to embeddings [B, 1 + N, D]."""
        with self._autocast():
            return self.model.encode_images(pixels)

    def encode_prompts(self) -> PromptStates:
        """The prompts before they meet an image, computed anew and differentiable in :attr:`weights`."""
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
            prompts: from :meth:`encode_prompts`, where gradients with respect to them are wanted. By default they are
                computed at the first image and kept: a segmenter's weights do not change.
            known: from :func:`shared_keys_values`, where several segmenters look at the same images.
        """
        prompts = self._prompt_states() if prompts is None else prompts
        with self._autocast():
            output = self.model.attend(
                prompts,
                image_embeds,
                self.layers if layers is None else layers,
                attention.sum_over_tokens,
                self._logits_budget(),
                known,
                {name: value for name, value in self.weights.items() if name != "word_embeddings"},
            )
            itm = attention.itm_scores(output.itm_logits)
        attended = PatchAttention(itm, output.reduced_logits)
        self._note_lost(attended)
        return attended

    @contextmanager
    def watch(self, images: Sequence[Path]) -> Iterator[None]:
        """Attend once to the images with these files; :meth:`check_numbers` then names the first at fault.

        After an error it is as if they had not been attended to: out of memory, a batch is computed again in halves.
        """
        before = self._attended, self._first_lost
        try:
            yield
        except BaseException:
            self._attended, self._first_lost = before
            raise
        self._watched += tuple(images)

    def check_numbers(self) -> None:
        """Make sure that everything computed since the last check was a number; waits for the device.

        Whatever is not a number would be labelled as background, without a word.

        Raises:
            UserError: an activation was beyond the range of the number format, or the weights are not numbers.
        """
        first = NONE_LOST if self._first_lost is None else int(self._first_lost)
        images = self._watched
        self._attended, self._first_lost, self._watched = 0, None, ()
        if first != NONE_LOST:
            where = f" in image {images[first]}" if first < len(images) else ""
            raise UserError(
                f"{self.model.name} in {self.number_format.name}: what the text encoder sees{where} is not a number; "
                f"{self.number_format.remedy}"
            )

    @torch.no_grad()
    def _note_lost(self, attended: PatchAttention) -> None:
        """Remember, on the device, which nobody waits for, the first image of which something is no number."""
        # it shows in the sum, as no sum of numbers is beyond the range of float32 here
        sums = [part.flatten(1).sum(1) for part in (attended.itm, *attended.token_logits.values())]
        finite = torch.stack(sums).isfinite().all(0)  # [B]
        positions = torch.arange(self._attended, self._attended + len(finite), device=finite.device)
        first = positions.masked_fill(finite, NONE_LOST).min()
        self._first_lost = first if self._first_lost is None else torch.minimum(self._first_lost, first)
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

        Whether they are numbers is asked apart, after as many batches as one likes: :meth:`check_numbers`.

        ``image_embeds`` spares the encoding of images that were encoded before; ``known`` as in :meth:`attend`.
        """
        embeds = self.encode_images(pixels) if image_embeds is None else image_embeds
        return self.refine(self.unary(self.attend(embeds, known=known)), pixels)

    def segment_image(self, image: ImageLike) -> np.ndarray:
        """Segment one image at its own size.

        Args:
            image: a path, a Pillow image, or an array: grey, RGB or RGBA, uint8 or floating point from 0 to 1.

        Returns:
            Labels, uint8 [height, width]: numbers of :attr:`PromptSet.class_names`.

        Raises:
            UserError: see :func:`src.data.images.to_rgb` and :meth:`check_numbers`.
        """
        return self.analyse_image(image).labels

    def analyse_image(self, image: ImageLike, embeds: Tensor | None = None) -> ImageAnalysis:
        """Run the model on one image, once; the analysis gives labels and heat maps at the image's own size.

        Args:
            image: as in :meth:`segment_image`.
            embeds: of an earlier analysis of the same image; only the text encoder runs again.

        Raises:
            UserError: see :meth:`segment_image`.
        """
        rgb = to_rgb(image)
        (seen,) = self.analyse_batch(self.frame.image(rgb)[None], embeds)
        return seen.at((rgb.shape[0], rgb.shape[1]))

    def analyse_images(self, images: Sequence[ImageLike]) -> list[ImageAnalysis]:
        """:meth:`analyse_image` of B images, each of its own size, as one batch.

        Raises:
            UserError: see :meth:`segment_image`.
        """
        if not images:
            return []
        images = [to_rgb(image) for image in images]
        seen = self.analyse_batch(torch.stack([self.frame.image(rgb) for rgb in images]))
        return [each.at((rgb.shape[0], rgb.shape[1])) for each, rgb in zip(seen, images, strict=True)]

    @torch.no_grad()
    def analyse_batch(self, pixels: Tensor, embeds: Tensor | None = None) -> list[FrameAnalysis]:
        """Run the model on normalised ``pixels`` [B, 3, S, S], on any device; what it sees stays in the frame.

        ``embeds`` [B, 1 + N, D] spares the encoding of images that were encoded before.

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
        itm = torch.stack(best, 1).tolist()  # all at once: a GPU is waited for at every question
        return [
            FrameAnalysis(prompts.class_names, scores[i], itm[i], unary[i], self.frame, embeds[i : i + 1])
            for i in range(len(pixels))
        ]

    def refine(self, unary: Tensor, pixels: Tensor) -> Tensor:
        """Apply the CRF, if there is one, to ``unary`` [B, C, S, S] of images ``pixels`` [B, 3, S, S].

        A background that no pixel may be labelled with takes no part; its score is :data:`NEVER`.
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

    Segmenters of one model that differ in weights (:meth:`Segmenter.with_weights`) see images with the same eyes in
    most layers. Of BLIP-large at 512 px they take 6 MB an image and layer, in float32, as long as they are kept.
    """
    changed = {name.removeprefix("layer.").split(".")[0] for each in segmenters for name in each.weights}
    first = segmenters[0]
    shared = [layer for layer in first.model.layers if str(layer) not in changed]
    with first._autocast():
        return first.model.keys_values(image_embeds, shared, first.layers)


def segment_with_each(segmenters: Sequence[Segmenter], pixels: Tensor, image_embeds: Tensor) -> Iterator[Tensor]:
    """:meth:`Segmenter.segment` of each of ``segmenters``, all of one model; what they share is computed once."""
    known = shared_keys_values(segmenters, image_embeds)
    for segmenter in segmenters:
        yield segmenter.segment(pixels, image_embeds, known)


def labels_of(scores: Tensor) -> Tensor:
    """The class of the highest score at each pixel, the first of equal ones: [..., C, H, W] to uint8 [..., H, W]."""
    # On the CPU, PyTorch's argmax over a dimension that is not the last takes six times as long as its max.
    return scores.max(-3).indices.to(torch.uint8)
