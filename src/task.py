"""What an experiment is asked to do: all that can be read and refused before a model is loaded."""

from __future__ import annotations

import argparse
from dataclasses import dataclass

from src.config.schema import Config
from src.data.lists import ListEntry, evaluation_entries
from src.method.prompts import ClassEntry, PromptSet, build_prompts, read_class_file
from src.paths import resolve
from src.result_files import Outputs


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

    @classmethod
    def read(cls, args: argparse.Namespace, config: Config, masks: bool = True) -> Task:
        """Read the class file and the image list that ``config`` names; ``masks``: every image must have one.

        Raises:
            UserError: one of them is missing or malformed.
        """
        multi_prompt = getattr(args, "multi_prompt", False)
        classes = read_class_file(resolve(config.class_name_dir), config.dataset.num_classes)
        return cls(
            config,
            classes,
            build_prompts(classes, multi_prompt, config.dataset.background),
            evaluation_entries(config, masks),
            Outputs(args.output_dir, multi_prompt, tuned=getattr(args, "tuned", None) is not None),
            args.device,
            args.fresh,
            args.skip_unreadable,
        )
