"""Photos and a model that answers words about them: every photo is encoded once."""

from __future__ import annotations

import hashlib
import io
from collections import OrderedDict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from ..config.schema import Config
from ..data.images import TooLargeError, format_names, open_image, read_photo
from ..errors import UserError
from ..method.checkpoints import load_configured
from ..method.model import Model
from ..method.prompts import PromptSet, fault_of_word
from ..method.segmenter import Segmenter
from ..photos.words import prompts_of_words
from ..runtime import choose_device
from ..task import note_scope
from .content import page_content, word_parts

MAX_PROMPTS = 300
MAX_SENT_BYTES = 2**28  # of an uploaded photo, decoded: 67 million pixels in colour
MAX_ENCODED = 16  # photos whose embeddings are kept, the most recently used
MAX_SENT = 100  # uploaded photos in memory while the server runs
MAX_KEPT_BYTES = 2**29  # of these photos, encoded
THUMBNAIL = (174, 132)  # pixels: three times what the page shows, for fine screens


@dataclass(frozen=True)
class Photo:
    """A photo to explore: a file, or the contents of an uploaded one."""

    name: str
    source: Path | bytes = field(repr=False)


class Studio:
    """A model and photos, each with a key.

    Only :meth:`thumbnail` and :meth:`add` may run in several threads at once. ``config`` names the class file (the
    default words), the layers and the CRF; ``photos`` are the first image files.
    """

    def __init__(self, config: Config, model: Model, photos: list[Path]) -> None:
        self.config = config
        self.model = model
        self.photos = {str(number): Photo(path.name, path) for number, path in enumerate(photos)}
        self._encoded: OrderedDict[str, Tensor] = OrderedDict()

    @classmethod
    def load(cls, config: Config, photos: list[Path], device: str) -> Studio:
        """Load the model of ``config``.

        Raises:
            UserError: the device does not exist, the model cannot be loaded, or ``model.layers`` is ``auto``.
        """
        if config.model.layers == "auto":
            expected = "layer numbers for the explorer; compute_infoscore_blip.py ranks them"
            raise config.refusal("model.layers", "auto", expected)
        return cls(config, load_configured(config, choose_device(device)), photos)

    def add(self, name: str, contents: bytes) -> str:
        """Keep a photo, drop the oldest; returns its key. Raises UserError if it is not an image or too large."""
        key = hashlib.sha256(contents).hexdigest()[:16]
        try:
            with open_image(io.BytesIO(contents), MAX_SENT_BYTES):
                pass
        except TooLargeError as error:
            raise UserError(f"{name} is too large ({error}); scale it down") from None
        except Exception:  # Pillow raises anything at a damaged file
            raise UserError(f"{name} cannot be read as an image; expected {format_names()}") from None
        note_scope(self.config.model.name, [None])
        self.photos[key] = Photo(name, contents)
        self._make_room()
        return key

    def explore(self, key: str, classes: str | None, background: str | None) -> dict[str, Any]:
        """Content of the page for a photo and these words (None: the class file's).

        Raises:
            UserError: the photo does not exist or cannot be read, or words are refused.
        """
        photo = self._photo(key)
        try:
            prompts = prompts_of_words(self.config, classes, background)
        except UserError as error:
            raise UserError(_of_fields(str(error))) from None
        if len(prompts) > MAX_PROMPTS:
            raise UserError(f"Look for: {len(prompts)} words in all; expected at most {MAX_PROMPTS}")
        rgb = self._read(photo)
        assert self.config.model.layers != "auto"
        segmenter = Segmenter.from_config(self.config, self.model, prompts, self.config.model.layers)
        analysis = segmenter.analyse_image(rgb, self._encoded.get(key))
        self._keep(key, analysis.embeds)
        file = photo.source if isinstance(photo.source, Path) else None
        content = page_content(segmenter, rgb, analysis.embeds, analysis.labels, photo.name, file=file)
        unknown = self.model.unknown_words(list(prompts.words))
        return {**content, "unknown": unknown}

    def parts(self, key: str, word: str, layer: int) -> dict[str, Any]:
        """Logits of one layer in a photo for each token of a word's prompt, head by head.

        Raises:
            UserError: the photo or the layer does not exist, the photo cannot be read, or the word is refused.
        """
        photo = self._photo(key)
        if fault := fault_of_word(word):
            raise UserError(f"Tokens and heads: the word {fault}")
        if layer not in self.model.layers:
            raise UserError(f"Tokens and heads: layer {layer} does not exist; expected one of {self.model.layers}")
        assert self.config.model.layers != "auto"
        prompts = PromptSet(("background",), (word,), (1,))
        segmenter = Segmenter.from_config(self.config, self.model, prompts, self.config.model.layers)
        embeds = self._encoded.get(key)
        if embeds is None:
            embeds = segmenter.encode_images(segmenter.frame.image(self._read(photo))[None].to(self.model.device))
        self._keep(key, embeds)
        return word_parts(segmenter, embeds, layer)

    def thumbnail(self, key: str) -> bytes:
        """A small JPEG of a photo. Raises UserError if the photo does not exist or cannot be read."""
        picture = Image.fromarray(self._read(self._photo(key)))
        picture.thumbnail(THUMBNAIL)
        buffer = io.BytesIO()
        picture.save(buffer, "JPEG", quality=80)
        return buffer.getvalue()

    def _keep(self, key: str, embeds: Tensor) -> None:
        """Keep an encoded photo, and drop the one that was not used for longest."""
        self._encoded[key] = embeds
        self._encoded.move_to_end(key)
        while len(self._encoded) > MAX_ENCODED:
            self._encoded.popitem(last=False)

    def _make_room(self) -> None:
        """Drop the oldest uploaded photos, but never the last one."""
        sent = {key: len(photo.source) for key, photo in list(self.photos.items()) if isinstance(photo.source, bytes)}
        while len(sent) > 1 and (len(sent) > MAX_SENT or sum(sent.values()) > MAX_KEPT_BYTES):
            oldest = next(iter(sent))
            del sent[oldest]
            self.photos.pop(oldest, None)  # two uploads may arrive at once

    def _photo(self, key: str) -> Photo:
        if key not in self.photos:
            raise UserError("this photo is no longer here; open it again")
        return self.photos[key]

    def _read(self, photo: Photo) -> np.ndarray:
        if isinstance(photo.source, bytes):
            return read_photo(photo.name, MAX_SENT_BYTES, contents=photo.source)
        try:
            return read_photo(photo.source)
        except UserError as error:
            raise UserError(str(error).replace(str(photo.source), photo.name)) from None


def _of_fields(message: str) -> str:
    """``message`` with the names of the page's fields instead of options."""
    return message.replace("--classes", "Look for").replace("--background", "Background")
