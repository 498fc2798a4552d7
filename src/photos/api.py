"""Photos from Python: a model and words make a segmenter, a photo makes a result.

from segmentation_from_attention import Segmenter  # in a checkout: from src import Segmenter

segmenter = Segmenter.from_pretrained("Salesforce/blip-itm-large-coco", classes="cat; dog = puppy, hound")
result = segmenter("photo.jpg")
print(result.shares)
result.overlay().save("overlay.png")
"""

from __future__ import annotations

import html
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from ..config.reader import config_of
from ..config.schema import Amp, shown
from ..data.images import ImageLike, to_rgb
from ..errors import UserError
from ..explorer.content import page_content
from ..explorer.page import page
from ..files import CLASS_FILES, write_bytes
from ..method.segmenter import ImageAnalysis, Segmenter
from ..output import pictures
from ..output.colours import safe_palette
from ..output.exports import FORMATS, LabelledPhoto, open_exports, to_supervision
from ..output.pictures import legend_of
from ..task import note_scope
from .photo_segmenter import load_photo_segmenter, segmenter_of_words
from .words import prompts_of_words

if TYPE_CHECKING:
    import torch
    from matplotlib.figure import Figure


class PhotoSegmenter:
    """Segments photos into classes given as words; ``segmenter`` is the method on images."""

    def __init__(self, segmenter: Segmenter) -> None:
        self.segmenter = segmenter

    @classmethod
    def from_pretrained(
        cls,
        name: str | os.PathLike[str],
        classes: str,
        background: str | None = None,
        *,
        device: str | torch.device = "auto",
        layers: Sequence[int] = (0, 3),
        image_size: int = 512,
        crf: int = 20,
        amp: Amp = True,
    ) -> PhotoSegmenter:
        """Load a model and bind it to words. The defaults are the paper's.

        Args:
            name: a hub name, a folder in HuggingFace format or an ALBEF checkpoint.
            classes: such as ``"cat; dog = puppy, hound"``.
            background: other words, such as ``"table, wall"``. None: the paper's background words for PASCAL.
            device: ``auto``, ``cpu``, ``cuda``, ``cuda:N`` or ``mps``.
            layers: text layers whose attention is averaged. The paper's choice is that of blip-itm-large-coco.
            image_size: side of the square that the model gets, pixels.
            crf: iterations of the CRF; 0 for none.
            amp: number format, as ``runtime.amp`` in a configuration.

        Raises:
            UserError: a word, a setting, the device or the model is refused.
        """
        for key, words, example in (("classes", classes, "cat; dog"), ("background", background or "", "table, wall")):
            if not isinstance(words, str):
                raise UserError(f"{key}: {shown(words)} is not a string; expected one such as {example!r}")
        values = {
            "data_set": "photos",
            "data_root": ".",
            "class_name_dir": str(CLASS_FILES / "pascal.json"),
            "model": {
                "name": os.fspath(name) if isinstance(name, os.PathLike) else name,
                "image_size": image_size,
                "layers": [*layers] if isinstance(layers, Iterable) and not isinstance(layers, str) else layers,
            },
            "crf": {"iters": crf},
            "runtime": {"amp": amp},
        }
        config = config_of(values, "from_pretrained")
        return cls(segmenter_of_words(config, prompts_of_words(config, classes, background), str(device)))

    @classmethod
    def from_config(
        cls,
        config: str | Path,
        classes: str | None = None,
        background: str | None = None,
        device: str | torch.device = "auto",
    ) -> PhotoSegmenter:
        """The same from a YAML configuration; ``classes`` and ``background`` default to those of its class file.

        Raises:
            UserError: the configuration, a word, the device or the model is refused.
        """
        return cls(load_photo_segmenter(config, classes, background, str(device)))

    @property
    def class_names(self) -> tuple[str, ...]:
        """C names; the first is the background's."""
        return self.segmenter.prompts.class_names

    def __call__(self, photo: ImageLike) -> PhotoResult:
        """Segment a photo (see :func:`src.data.images.to_rgb`) at its size. Raises UserError if it cannot be read."""
        rgb = to_rgb(photo)
        named = Path(photo) if isinstance(photo, str | os.PathLike) else None
        note_scope(self.segmenter.model.name, [named])
        file = named or Path("photo")
        return PhotoResult(file, rgb, self.segmenter.analyse_image(rgb), self.segmenter)


@dataclass(frozen=True)
class PhotoResult:
    """A segmented photo of C classes.

    Attributes:
        file: the photo's; ``photo`` for an image without one.
        rgb: the photo, uint8 [height, width, 3].
        analysis: the output of ``segmenter``.
    """

    file: Path
    rgb: np.ndarray
    analysis: ImageAnalysis
    segmenter: Segmenter

    @property
    def class_names(self) -> tuple[str, ...]:
        """C names; the first is the background's."""
        return self.analysis.class_names

    @property
    def labels(self) -> np.ndarray:
        """uint8 [height, width], numbers of :attr:`class_names`."""
        return self.analysis.labels

    @property
    def masks(self) -> dict[str, np.ndarray]:
        """Per class but the background: bool [height, width]."""
        return {name: self.labels == label for label, name in enumerate(self.class_names) if label}

    @property
    def scores(self) -> dict[str, float]:
        """Per class: the best matching score of its prompts, 0 to 1."""
        return dict(zip(self.class_names, self.analysis.itm, strict=True))

    @property
    def shares(self) -> dict[str, float]:
        """Per class: its share of the pixels, 0 to 1."""
        return dict(zip(self.class_names, self.analysis.shares, strict=True))

    def heat_map(self, name: str) -> np.ndarray:
        """Probability of a class before the CRF: float32 [height, width]. Raises KeyError if no class has this name."""
        return self.analysis.heat_map(name)

    def overlay(self) -> Image.Image:
        """The photo with its classes in colour and a legend."""
        return pictures.overlay_with_legend(
            self.rgb, self.labels, legend_of([self.labels], self.class_names), self.class_names, safe_palette()
        )

    def plot(self) -> Figure:
        """The photo, its labels, and the heat map of every class that was found, for notebooks."""
        from matplotlib.figure import Figure

        found = [name for name, share in self.shares.items() if share and name != self.class_names[0]]
        figure = Figure(figsize=(4 * (2 + len(found)), 4), layout="constrained")
        axes = figure.subplots(1, 2 + len(found), squeeze=False)[0]
        shown = [("photo", self.rgb), ("labels", np.asarray(self.overlay()))]
        for axis, (title, image) in zip(axes, shown, strict=False):
            axis.imshow(image)
            axis.set_title(title)
        drawn = None
        for axis, name in zip(axes[2:], found, strict=True):
            drawn = axis.imshow(self.heat_map(name), vmin=0, vmax=1)
            axis.set_title(name)
        for axis in axes:
            axis.axis("off")
        if drawn is not None:
            figure.colorbar(drawn, ax=list(axes[2:]), label="probability")
        return figure

    def explorer(self, path: str | Path) -> Path:
        """Write a page of what every layer sees, for any browser. Raises UserError if ``path`` cannot be written."""
        write_bytes(Path(path), self._page())
        return Path(path)

    def _repr_html_(self) -> str:
        """The same page inside a notebook's output; its script cannot reach the notebook."""
        allowed = "allow-scripts allow-downloads allow-popups"
        source = html.escape(self._page().decode())
        frame = f'title="Attention explorer" sandbox="{allowed}" width="100%" height="760"'
        return f'<iframe {frame} srcdoc="{source}"></iframe>'

    def _page(self) -> bytes:
        analysed = (self.segmenter, self.rgb, self.analysis.embeds, self.labels)
        return page(page_content(*analysed, self.file.name, file=self.file))

    def export(self, folder: str | Path, *formats: str) -> list[Path]:
        """Write ``folder/export_<format>`` for annotation tools: see :data:`src.output.exports.FORMATS`.

        Raises:
            UserError: no or an unknown format, an export that exists, or a name that a format does not allow.
        """
        if not formats:
            raise UserError(f"export: name at least one format: {', '.join(FORMATS)}")
        exports = open_exports(formats, Path(folder), self.class_names)
        for each in exports:
            each.add(LabelledPhoto(self.file, self.file.stem, self.labels, self.class_names))
        return [each.finish() for each in exports]

    def to_supervision(self) -> Any:
        """The connected areas of every class; see :func:`src.output.exports.to_supervision`."""
        return to_supervision(self.labels)
