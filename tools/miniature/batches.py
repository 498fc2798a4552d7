"""Batches of pictures with captions: augmentation, and the prompts a picture is matched with.

B pictures, P prompts per picture, T tokens per prompt, N patches, K subjects.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.random import Generator
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from src.method.prompts import TEMPLATE
from tools.miniature.class_words import CLASSES, SUBJECT_NUMBER, SUBJECTS, UNDRAWN_WORDS, WORDS, WORDS_OF
from tools.miniature.tiny_blip import PATCH

# the normalisation of the PASCAL configurations (ImageNet's), which the miniature's shares
MEAN = torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1)
STD = torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1)
JITTER = 0.1  # standard deviation of contrast, and of the shift of each channel, on normalised pixels

PROMPTS_PER_PICTURE = 10
TOKENS_PER_PROMPT = 8  # the longest prompt of the class file, so that training pads as evaluation does

SUBJECT_OF_WORD = {word: subject for subject, words in WORDS_OF.items() for word in words}


@dataclass(frozen=True)
class PictureBatch:
    """A batch of augmented pictures.

    Attributes:
        pixels: normalised [B, 3, S, S].
        named: [B, K], 1 for subjects that the caption names.
        content: [B, N], 1 for patches that show something, 0 for black padding.
        mirrored: [B] bool.
    """

    pixels: Tensor
    named: Tensor
    content: Tensor
    mirrored: Tensor


@dataclass(frozen=True)
class Prompts:
    """The prompts that each picture of a batch is matched with.

    Attributes:
        input_ids, attention_mask: [B, P, T].
        wanted: [B, P], 1 where the caption contains the word.
        subjects: [B, P] int64, index of the word's subject among the K; 0 for words that no drawing shows.
        absent_words: [B], number of words of the class file that each wrong prompt represents.
    """

    input_ids: Tensor
    attention_mask: Tensor
    wanted: Tensor
    subjects: Tensor
    absent_words: Tensor


class PromptSampler:
    """Draws prompts for captions: every word of the caption, then words of subjects it does not name."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        encoded = tokenizer(
            [TEMPLATE.format(word=word) for word in WORDS],
            padding="max_length",
            max_length=TOKENS_PER_PROMPT,
            return_tensors="np",
        )
        assert encoded.input_ids.shape[1] == TOKENS_PER_PROMPT
        self.rows = {word: row for row, word in enumerate(WORDS)}
        self.input_ids = torch.from_numpy(encoded.input_ids)
        self.attention_mask = torch.from_numpy(encoded.attention_mask)
        self.candidates = [WORDS_OF[subject] for subject in SUBJECTS[1:]] + [(word,) for word in UNDRAWN_WORDS]
        # classes are drawn more often than scenery, because the model has to distinguish them
        self.weights = np.array([1.0] * len(CLASSES) + [0.5] * (len(self.candidates) - len(CLASSES)))

    def sample(self, captions: Sequence[Sequence[str]], rng: Generator) -> Prompts:
        rows = np.zeros((len(captions), PROMPTS_PER_PICTURE), np.int64)
        wanted = np.zeros(rows.shape, np.float32)
        subjects = np.zeros(rows.shape, np.int64)
        absent_words = np.zeros(len(captions), np.float32)
        for picture, caption in enumerate(captions):
            present = {SUBJECT_NUMBER[SUBJECT_OF_WORD[word]] - 1 for word in caption}
            words = list(caption)[:PROMPTS_PER_PICTURE]
            wanted[picture, : len(words)] = 1
            wrong = PROMPTS_PER_PICTURE - len(words)
            absent_words[picture] = (len(WORDS) - sum(len(self.candidates[s]) for s in present)) / max(wrong, 1)
            words += [_any_word(self.candidates[s], rng) for s in self._absent(present, wrong, rng)]
            rows[picture] = [self.rows[word] for word in words]
            subjects[picture] = [
                SUBJECT_NUMBER[SUBJECT_OF_WORD[word]] - 1 if word in SUBJECT_OF_WORD else 0 for word in words
            ]
        return Prompts(
            self.input_ids[rows],
            self.attention_mask[rows],
            torch.from_numpy(wanted),
            torch.from_numpy(subjects),
            torch.from_numpy(absent_words),
        )

    def _absent(self, present: set[int], count: int, rng: Generator) -> np.ndarray:
        """``count`` different candidates that are not present, by weight (the largest of random keys)."""
        keys = rng.random(len(self.candidates)) ** (1 / self.weights)
        keys[list(present)] = -1
        return np.argsort(-keys)[:count]


class PictureSampler:
    """Draws random batches of ``pictures`` (uint8 [n, S, S, 3]), mirrored, jittered in colour, with captions."""

    def __init__(self, pictures: np.ndarray, captions: Sequence[Sequence[str]]) -> None:
        self.pictures = pictures
        self.named = named_subjects(captions)

    def sample(self, indices: np.ndarray, rng: Generator) -> PictureBatch:
        pictures = self.pictures[indices]
        mirrored = rng.random(len(indices)) < 0.5
        pictures[mirrored] = pictures[mirrored, :, ::-1]
        pixels = normalise_pixels(pictures)
        pixels *= torch.from_numpy(rng.normal(1, JITTER, (len(indices), 1, 1, 1))).float()
        pixels += torch.from_numpy(rng.normal(0, JITTER, (len(indices), 3, 1, 1))).float()
        return PictureBatch(pixels, self.named[indices], content_patches(pictures), torch.from_numpy(mirrored))


def content_patches(pictures: np.ndarray) -> Tensor:
    """[B, N], 1 for patches of uint8 ``pictures`` [B, S, S, 3] that are not all black, as padding is."""
    grid = pictures.shape[1] // PATCH
    patches = pictures.reshape(len(pictures), grid, PATCH, grid, PATCH, 3)
    return torch.from_numpy(patches.any(axis=(2, 4, 5)).reshape(len(pictures), -1)).float()


def normalise_pixels(pictures: np.ndarray) -> Tensor:
    """uint8 [B, S, S, 3] to float32 [B, 3, S, S], as the evaluation does it."""
    return (torch.from_numpy(pictures.transpose(0, 3, 1, 2).copy()).float() / 255 - MEAN) / STD


def named_subjects(captions: Sequence[Sequence[str]]) -> Tensor:
    """[B, K], 1 for the subjects that each caption names."""
    named = torch.zeros(len(captions), len(SUBJECTS) - 1)
    for picture, caption in enumerate(captions):
        for word in caption:
            named[picture, SUBJECT_NUMBER[SUBJECT_OF_WORD[word]] - 1] = 1
    return named


def _any_word(words: Sequence[str], rng: Generator) -> str:
    """The first of ``words`` half of the time, else any."""
    return words[0] if rng.random() < 0.5 else words[int(rng.integers(len(words)))]
