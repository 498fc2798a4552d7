"""My photos, my words: segmenting images that are no data set, with classes given on the command line.

Photos come as cameras, phones and scanners write them and are answered at their own size, with pictures and a short
text. No masks, no image list and no data root are needed.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from src.config.schema import Config
from src.data.frame import Frame
from src.data.images import IMAGE_ENDINGS, images_in
from src.errors import UserError
from src.method.blip import load_configured
from src.method.prompts import ClassEntry, PromptSet, build_prompts, read_class_file
from src.method.segmenter import Segmenter
from src.one_shot.tuned_weights import load_tuned
from src.output import pictures
from src.paths import resolve
from src.result_files import write_result
from src.runtime import choose_device
from src.screen import note, say, table

FOLDER = "results/photos"
MOST_CLASSES = 254  # labels are bytes; 0 is the background, 255 stands for ignored pixels
MOST_MISSING = 10  # so many classes without pixels are still worth a word each
OURS = re.compile(r"_(labels|overlay|heatmap_\d+_.*)(\.\d{8}-\d{6}(-\d+)?)?\.png$")


def segment_photos(args: argparse.Namespace, config: Config) -> None:
    """Segment the photos that the command line names; write pictures, print what was seen.

    A photo that cannot be read is named and left out; the others are segmented all the same.

    Raises:
        UserError: wrong words, paths or settings before the start; photos that could not be read at the end.
    """
    output = args.output_dir or resolve(FOLDER)
    photos = name_outputs(find_photos(args.images, output)[: args.limit])
    prompts = photo_prompts(args, config)
    if config.model.layers == "auto":
        expected = "layer numbers with --images; compute_infoscore_blip.py ranks them"
        raise config.refusal("model.layers", "auto", expected)
    device = choose_device(args.device)
    blip = load_configured(config, device)
    segmenter = Segmenter.from_config(config, blip, prompts, config.model.layers)
    if args.tuned:
        segmenter = load_tuned(args.tuned, segmenter)
    unknown = blip.unknown_words(list(prompts.words))
    if unknown:
        words = ", ".join(f'"{word}"' for word in unknown)
        note(f"note: the vocabulary of {blip.name} cannot spell {words}; expect little of it")
    classes = len(prompts.class_names) - 1
    say(f"{blip.name} on {device}: {classes} classes, {len(prompts)} prompts, {len(photos)} images")

    unreadable = []
    for path, name in photos:
        try:
            image = read_photo(path)
        except UserError as error:
            unreadable.append(path)
            note(f"left out: {error}")
            continue
        answer = segment_photo(segmenter, image)
        say(f"\n{path}  {image.shape[1]} x {image.shape[0]}\n{answer.text(prompts.class_names)}")
        labels, overlay, *heat_maps = write_pictures(
            output / name, image, answer, prompts.class_names, args.save_heatmaps
        )
        say(f"  wrote {labels}, {overlay.name}" + (f" and {len(heat_maps)} heat maps" if heat_maps else ""))
    if unreadable:
        names = ", ".join(map(str, unreadable))
        raise UserError(f"{len(unreadable)} of {len(photos)} images could not be read: {names}")


def photo_prompts(args: argparse.Namespace, config: Config) -> PromptSet:
    """The prompts that ``--classes``, ``--background`` and the configuration's class file make together.

    Words after "=" always count. A word asked for as a class is no background word: the default background loses it.

    Raises:
        UserError: see :func:`parse_classes`, :func:`parse_background` and :func:`src.method.prompts.read_class_file`.
    """
    if args.classes is None or args.background is None:
        from_file = read_class_file(resolve(config.class_name_dir), config.dataset.num_classes)
    foreground = from_file[1:] if args.classes is None else parse_classes(args.classes)
    asked = {word.lower() for entry in foreground for word in (entry.name, *entry.related_words)}
    if args.background is not None:
        background = parse_background(args.background)
        both = [word for word in background if word.lower() in asked]
        if both:
            raise UserError(f'--background: "{both[0]}" is one of the classes too; it cannot be both')
    else:
        words = [from_file[0].name, *from_file[0].related_words]
        background = [word for word in words if word.lower() not in asked]
        taken = [word for word in words if word.lower() in asked]
        if taken:
            say(f"no background words here, since they are classes: {', '.join(taken)}")
        if not background:
            raise UserError("no background words are left; name some with --background")
    entries = [ClassEntry(background[0], tuple(background[1:])), *foreground]
    return build_prompts(entries, multi_prompt=args.classes is not None or args.multi_prompt)


def parse_classes(text: str) -> list[ClassEntry]:
    """Read ``--classes``: classes apart by ";", each a name, or a name, "=" and related words apart by ",".

    Raises:
        UserError: no class, too many, one twice, a part without a name, or commas where semicolons were meant.
    """
    entries: list[ClassEntry] = []
    for part in filter(None, map(str.strip, text.split(";"))):
        name, equals, related = (piece.strip() for piece in part.partition("="))
        words = tuple(filter(None, map(str.strip, related.split(","))))
        if not name or (equals and not words) or "=" in related:
            raise UserError(f'--classes: "{part}": expected a name, or name = word, word, such as "dog = puppy, hound"')
        if "," in name:
            raise UserError(f'--classes: "{name}": classes are set apart by ";", such as "cat; dog"')
        if name.lower() in ("background", *(entry.name.lower() for entry in entries)):
            raise UserError(f'--classes: "{name}" is there already; --background names what is background')
        entries.append(ClassEntry(name, words))
    if not 1 <= len(entries) <= MOST_CLASSES:
        raise UserError(f"--classes: expected 1 to {MOST_CLASSES} classes, got {len(entries)}")
    return entries


def parse_background(text: str) -> list[str]:
    """Read ``--background``: words apart by "," (";" does too).

    Raises:
        UserError: no word.
    """
    words = list(dict.fromkeys(filter(None, map(str.strip, re.split("[,;]", text)))))
    if not words:
        raise UserError('--background: expected at least one word, such as "table, wall"')
    return words


def find_photos(paths: Sequence[Path], output: Path) -> list[Path]:
    """The image files among ``paths`` and directly in the folders among them, each once.

    Pictures that an earlier run left in ``output`` are passed over where a folder is given.

    Raises:
        UserError: a path does not exist, or a folder holds no image.
    """
    found = []
    for path in paths:
        if path.is_dir():
            ours = path.resolve() == output.resolve()
            images = [image for image in images_in(path) if not (ours and OURS.search(image.name))]
            if not images:
                raise UserError(f"--images {path}: the folder holds no images ({', '.join(IMAGE_ENDINGS)})")
            found += images
        elif path.exists():
            found.append(path)
        else:
            raise UserError(f"--images {path} does not exist; expected image files or folders")
    return list({path.resolve(): path for path in found}.values())


def name_outputs(photos: Sequence[Path]) -> list[tuple[Path, str]]:
    """Pairs (photo, name that its pictures begin with): its stem, numbered where an earlier photo has the same."""
    stems = {path.stem.lower() for path in photos}  # file systems that ignore case must not mix photos up either
    used: set[str] = set()
    pairs = []
    for path in photos:
        name, number = path.stem, 1
        while name.lower() in used or (number > 1 and name.lower() in stems):
            number += 1
            name = f"{path.stem}-{number}"
        used.add(name.lower())
        pairs.append((path, name))
    return pairs


def read_photo(path: Path) -> np.ndarray:
    """Decode an image to RGB as a viewer shows it: uint8 [height, width, 3].

    The EXIF orientation is applied, transparency lies on white, 16 bits are cut to the upper 8, of an animation the
    first frame is taken, and there is no limit to the size.

    Raises:
        UserError: unreadable or truncated.
    """
    limit = Image.MAX_IMAGE_PIXELS
    Image.MAX_IMAGE_PIXELS = None  # the guard against images from strangers; these are the user's own
    try:
        with Image.open(path) as image:
            return np.asarray(_rgb(ImageOps.exif_transpose(image)))
    except (OSError, SyntaxError, ValueError, MemoryError) as error:
        reason = "no image format known here" if isinstance(error, Image.UnidentifiedImageError) else error
        raise UserError(f"image {path} cannot be read ({reason}); save it as JPEG or PNG") from error
    finally:
        Image.MAX_IMAGE_PIXELS = limit


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I") or image.mode == "F":  # PIL's own conversion would clip these at 255
        values = np.asarray(image).astype(np.float64)
        top = float(np.nanmax(values)) if values.size else 0.0
        # 16 bits in their full range; floating point is 0..1 by custom; anything above is brought down by its maximum
        span = 1.0 if image.mode == "F" and top <= 1 else max(top, 65535.0) if image.mode != "F" else max(top, 255.0)
        grey = np.nan_to_num(values / span * 255).clip(0, 255).astype(np.uint8)
        return Image.fromarray(grey).convert("RGB")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB")


@dataclass(frozen=True)
class Answer:
    """What was seen in one photo of C classes.

    Attributes:
        labels: uint8 [height, width].
        itm: [C] best matching score of the prompts of each class.
        unary: [C, S, S] class probabilities before the CRF, in the letterbox frame.
        frame: in which the photo was segmented.
    """

    labels: np.ndarray
    itm: list[float]
    unary: Tensor
    frame: Frame

    @property
    def shares(self) -> list[float]:
        """[C] share of the photo's pixels."""
        return (np.bincount(self.labels.ravel(), minlength=len(self.itm)) / self.labels.size).tolist()

    def text(self, names: Sequence[str]) -> str:
        """Class, share of pixels and matching score, largest first; classes without a pixel after them."""
        rows = sorted(zip(self.shares, self.itm, names, strict=True), key=lambda row: -row[0])
        found = [(name, f"{100 * share:.1f}%", f"{itm:.2f}") for share, itm, name in rows if share]
        lines = [table([("class", "pixels", "itm"), *found])]
        missing = [f"{name} (itm {itm:.2f})" for share, itm, name in rows if not share]
        if 0 < len(missing) <= MOST_MISSING:
            lines.append(f"  not found: {', '.join(missing)}")
        return "\n".join(lines)


@torch.no_grad()
def segment_photo(segmenter: Segmenter, image: np.ndarray) -> Answer:
    """Segment one RGB image uint8 [height, width, 3] at its own size."""
    pixels = segmenter.frame.image(image)[None].to(segmenter.device)
    attended = segmenter.attend(segmenter.encode_images(pixels))
    unary = segmenter.unary(attended)
    itm = [float(scores.max()) for scores in attended.itm[0].split(list(segmenter.prompts.prompts_per_class))]
    labels = segmenter.frame.labels(segmenter.refine(unary, pixels)[0], image.shape[:2])
    return Answer(labels.cpu().numpy(), itm, unary[0], segmenter.frame)


def write_pictures(stem: Path, image: np.ndarray, answer: Answer, names: Sequence[str], heat_maps: bool) -> list[Path]:
    """Write ``<stem>_labels.png``, ``<stem>_overlay.png`` and one heat map per class; returns the paths in this order.

    Earlier files of these names with other content are kept under a name with their date.
    """
    shares = answer.shares
    legend = [
        pictures.LegendEntry(entry.label, f"{entry.text} {_percent(shares[entry.label])}")
        for entry in pictures.legend_of([answer.labels], names)
    ]
    written = [
        _write(stem, "labels", pictures.label_png(answer.labels)),
        _write(stem, "overlay", pictures.png(pictures.overlay_with_legend(image, answer.labels, legend))),
    ]
    for label, name in enumerate(names if heat_maps else ()):
        strength = answer.frame.undo(answer.unary[label : label + 1], image.shape[:2])[0].cpu().numpy()
        ending = f"heatmap_{label:02d}_{re.sub(r'[^0-9A-Za-z]+', '-', name).strip('-')[:40]}"
        written.append(_write(stem, ending, pictures.png(pictures.heat_map(image, strength, name))))
    return written


def _write(stem: Path, ending: str, content: bytes) -> Path:
    path = stem.with_name(f"{stem.name}_{ending}.png")
    write_result(path, content)
    return path


def _percent(share: float) -> str:
    return f"{100 * share:.0f}%" if share >= 0.01 else "<1%"
