"""Check everything that an experiment needs before it starts, and print all faults together.

    python -m tools.check --config configs/pascal_blip.yaml
    python -m tools.check --config configs/coco_blip_one_shot.yaml --multi_prompt

It loads the model, checks that its vocabulary has every word, decodes every image and mask, checks labels and sizes,
writes a file where results will go, and segments one batch, which shows whether memory suffices. Every fault is one
line, with the line of the image list where possible; exit code 2 if there are any.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from src import cli
from src.config.schema import Config, DataloaderConfig
from src.data.lists import ListEntry, evaluation_entries
from src.errors import UserError
from src.files import check_writable
from src.runtime import cores
from src.screen import counted, duration, note, progress, say, say_next
from src.task import Task, note_scope

if TYPE_CHECKING:
    from src.method.segmenter import Segmenter

T = TypeVar("T")
BATCH = 16  # images that a process reads at once
MOST_PROCESSES = 16


def main(arguments: list[str]) -> int:
    """Check the experiment of ``arguments``; returns 0, or 2 if there are faults."""
    args = cli.experiment_parser("python -m tools.check", __doc__).parse_args(arguments)
    config = cli.load(args)
    faults: list[str] = []

    def attempt(check: Callable[[], T]) -> T | None:
        try:
            return check()
        except UserError as error:
            faults.append(str(error))
            return None

    task = attempt(lambda: Task.read(args, config))
    if task:
        experiment = "training-free" if config.oneshot is None else "one-shot"
        attempt(partial(check_writable, *task.outputs.files_of(experiment, config)))
    segmenter = attempt(lambda: _load(task)) if task else None
    if segmenter:
        unknown = segmenter.model.unknown_words(list(segmenter.prompts.words))
        faults += [
            f'the vocabulary of {segmenter.model.name} cannot spell "{word}"; change the word' for word in unknown
        ]
    if task:
        # supports are drawn from the whole list, whatever max_images
        whole = task.entries if config.oneshot is None else evaluation_entries(config, whole=True)
        supports = attempt(lambda: _support_list(config)) or []
        for title, entries in (("images and masks", whole), ("train images and masks", supports)):
            faults += list(unreadable(entries, config, title))
    if task and segmenter and not faults:
        attempt(lambda: _one_batch(segmenter, task))

    for fault in faults:
        note(f"fault: {fault}")
    if faults:
        say(f"{counted(len(faults), 'fault')}: fix {'it' if len(faults) == 1 else 'them'}, then run this check again")
        return 2
    say("no fault: the experiment can start")
    script = "training_free_blip.py" if config.oneshot is None else "one_shot_blip.py"
    say_next(cli.again(script, args))
    return 0


def unreadable(entries: list[ListEntry], config: Config, title: str) -> Iterator[str]:
    """The faults of the images of ``entries`` and their masks, one line each, in list order; reads all files."""
    if not entries:
        return
    import torch

    from src.data.dataset import SegmentationDataset, batches

    dataset = SegmentationDataset.from_config(entries, config)
    reading = DataloaderConfig(batch_size=BATCH, num_workers=min(cores(), MOST_PROCESSES))
    with progress(len(entries), f"reading {title}") as bar:
        for batch in batches(dataset, reading, torch.device("cpu"), skip_unreadable=True):
            yield from batch.unreadable.values()
            bar.update(len(batch) + len(batch.unreadable))


def _support_list(config: Config) -> list[ListEntry]:
    """The images of supports, if they are not from the evaluation list."""
    if config.oneshot is None or not config.oneshot.use_training_images_for_supports:
        return []
    from src.one_shot.supports import training_list

    return training_list(config)


def _load(task: Task) -> Segmenter:
    with cli.quick_imports():
        from src.method.checkpoints import load_configured
        from src.method.segmenter import Segmenter
    from src.runtime import choose_device

    note_scope(task.config.model.name, [entry.image for entry in task.entries])
    model = load_configured(task.config, choose_device(task.device))
    layers = model.layers if task.config.model.layers == "auto" else task.config.model.layers
    return Segmenter.from_config(task.config, model, task.prompts, layers)


def _one_batch(segmenter: Segmenter, task: Task) -> None:
    """Segment the first batch as the experiment would, in parts if memory requires it; prints an estimate of the time.

    Raises:
        UserError: one image does not fit into memory, or the model's scores are not numbers.
    """
    from src.data.dataset import Batch, SegmentationDataset, batches
    from src.evaluation.memory import within_memory

    config = task.for_device().config
    dataset = SegmentationDataset.from_config(task.entries[: config.dataloader.batch_size], config)

    def segment(part: Batch) -> None:
        with segmenter.watch(part.images):
            segmenter.segment(part.pixels)

    start = time.perf_counter()
    for batch in batches(dataset, config.dataloader, segmenter.device):
        within_memory(segment, batch, Batch.halves, lambda one, _: one)
        segmenter.check_numbers()
    seconds = (time.perf_counter() - start) / len(dataset) * len(task.entries)
    images = counted(len(task.entries), "image")
    say(f"at the pace of the first batch, warm-up included: about {duration(seconds)} for {images}")


if __name__ == "__main__":
    sys.exit(cli.run(main))
