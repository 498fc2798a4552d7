"""The task of an experiment: everything that can be read and checked before a model is loaded."""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from .config.schema import Config, ModelConfig
from .data.lists import ListEntry, evaluation_entries
from .files import read_regular, real_path, resolve
from .method.prompts import ClassEntry, PromptSet, build_prompts, read_class_file
from .result_files import Outputs
from .runtime import choose_device, cores, local_world_size
from .screen import note_once

PHOTO_MODEL = ModelConfig().name
MAX_CONFIG = 1 << 20  # bytes of a model's config.json
MAX_IMAGES, MAX_WORKERS = 16, 8
MODEL_BYTES, IMAGE_BYTES = 3 << 30, 1 << 30  # BLIP-large with its cast weights; COCO multi-prompt at 512 px


def scope_warning(model: str, images: Sequence[Path | None]) -> str | None:
    """A line if a model is used on other ``images`` than it was trained for; else None.

    The config.json of a model for a narrow domain, such as the shipped miniature, has ``scope`` (its training data) and
    ``scope_data`` (the folder of such images). None is an image without a file.
    """
    try:
        values = json.loads(read_regular(resolve(model) / "config.json", MAX_CONFIG))
        scope, data = values["scope"], real_path(resolve(values["scope_data"]))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None  # a model without a scope; loading it names what is wrong with its config.json
    if all(image is not None and real_path(image).is_relative_to(data) for image in images):
        return None
    return (
        f"{model} knows {scope} only; on other images its labels mean nothing. "
        f"For photos use {PHOTO_MODEL}, as configs/pascal_blip.yaml does"
    )


def note_scope(model: str, images: Sequence[Path | None]) -> None:
    """Print :func:`scope_warning`, if there is one, once."""
    if warning := scope_warning(model, images):
        note_once(f"note: {warning}")


def batch_that_fits(memory: int, image_size: int) -> int:
    """The largest batch size for a GPU with ``memory`` bytes: a power of two from 1 to 16."""
    images = MAX_IMAGES
    while images > 1 and MODEL_BYTES + images * IMAGE_BYTES * (image_size / 512) ** 2 > memory:
        images //= 2
    return images


def for_device(name: str, config: Config) -> Config:
    """Replace ``auto`` batch size and workers of ``config`` by numbers for the device ``name`` (``--device``).

    On CUDA up to 16 images per batch, limited by the GPU's total (not free) memory, so that a resumed command has the
    same batches; and up to 8 workers, limited by the cores of this process. Other numbers are kept.

    Raises:
        UserError: see :func:`src.runtime.choose_device`.
    """
    device = choose_device(name)
    if device.type != "cuda":
        return config
    import torch

    total = torch.cuda.get_device_properties(device).total_memory
    found = {
        "batch_size": batch_that_fits(total, config.model.image_size),
        "num_workers": min(MAX_WORKERS, max(1, cores() // local_world_size())),
    }
    loader = config.dataloader
    loader = dataclasses.replace(loader, **{key: found[key] for key in loader.automatic})
    return dataclasses.replace(config, dataloader=loader)


@dataclass(frozen=True)
class Task:
    """A command line and its configuration, read and checked without torch, so that errors are reported immediately.

    Attributes:
        config: the configuration with overrides.
        classes: C classes in label order.
        entries: the evaluation list.
        outputs: paths of results.
        fresh, skip_unreadable: see :class:`src.evaluation.journal.Journal`.
    """

    config: Config
    classes: list[ClassEntry]
    prompts: PromptSet
    entries: list[ListEntry]
    outputs: Outputs
    device: str
    fresh: bool
    skip_unreadable: bool

    def for_device(self) -> Task:
        """This task with the configuration from :func:`for_device`."""
        return dataclasses.replace(self, config=for_device(self.device, self.config))

    @classmethod
    def read(cls, args: argparse.Namespace, config: Config, masks: bool = True) -> Task:
        """Read the class file and the image list of ``config``; with ``masks``, every image must have a mask.

        Raises:
            UserError: one of them is missing or malformed.
        """
        multi_prompt = getattr(args, "multi_prompt", False)
        classes = read_class_file(resolve(config.class_name_dir), config.dataset.num_classes)
        outputs = Outputs(args.output_dir, multi_prompt, tuned=getattr(args, "tuned", None) is not None)
        outputs.check_names(config)
        return cls(
            config,
            classes,
            build_prompts(classes, multi_prompt, config.dataset.background),
            evaluation_entries(config, masks),
            outputs,
            args.device,
            args.fresh,
            args.skip_unreadable,
        )
