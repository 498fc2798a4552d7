"""What an experiment is asked to do: all that can be read and refused before a model is loaded."""

from __future__ import annotations

import argparse
import dataclasses
from dataclasses import dataclass

from .config.schema import Config
from .data.lists import ListEntry, evaluation_entries
from .files import resolve
from .method.prompts import ClassEntry, PromptSet, build_prompts, read_class_file
from .result_files import Outputs
from .runtime import choose_device, cores, local_world_size

MAX_IMAGES, MAX_WORKERS = 16, 8
MODEL_BYTES, IMAGE_BYTES = 3 << 30, 1 << 30  # BLIP-large with its short weights; COCO multi-prompt at 512 px


def batch_that_fits(memory: int, image_size: int) -> int:
    """The largest power of two of images, 16 at most and 1 at least, for a GPU of ``memory`` bytes."""
    images = MAX_IMAGES
    while images > 1 and MODEL_BYTES + images * IMAGE_BYTES * (image_size / 512) ** 2 > memory:
        images //= 2
    return images


def settled_on(name: str, config: Config) -> Config:
    """``config`` with numbers where it says ``auto``: batch and workers that fit the device that ``--device`` names.

    On CUDA up to 16 images at once, as the GPU's memory allows, and up to eight workers, as the cores of this process
    allow; otherwise the GPU would wait. A number in the configuration is kept. All of the GPU's memory counts, free or
    not, so that the same command resumes from its journal.

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
    """A command line and its configuration, read and checked; needs no torch, so that faults are told at once.

    Attributes:
        config: the configuration, overrides applied.
        classes: C classes in label order.
        prompts: what the model is asked.
        entries: the evaluation list.
        outputs: where results go.
        device: ``--device``.
        fresh: ``--fresh``, see :class:`src.evaluation.journal.Journal`.
        skip_unreadable: ``--skip-unreadable``, likewise.
    """

    config: Config
    classes: list[ClassEntry]
    prompts: PromptSet
    entries: list[ListEntry]
    outputs: Outputs
    device: str
    fresh: bool
    skip_unreadable: bool

    def settled(self) -> Task:
        """This task with numbers where its configuration says ``auto``: see :func:`settled_on`."""
        return dataclasses.replace(self, config=settled_on(self.device, self.config))

    @classmethod
    def read(cls, args: argparse.Namespace, config: Config, masks: bool = True) -> Task:
        """Read the class file and the image list that ``config`` names; ``masks``: every image must have one.

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
