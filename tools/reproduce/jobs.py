"""The paper's experiments, and their command lines, read and checked before anything is computed."""

from __future__ import annotations

import argparse
import importlib
import shlex
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from src import cli
from src.data.lists import ListEntry, evaluation_entries
from src.errors import UserError
from src.files import REPOSITORY, check_writable
from src.one_shot.supports import training_list
from src.task import Task

CONFIGS = {
    "pascal": ("configs/pascal_blip.yaml", "configs/pascal_blip_one_shot.yaml"),
    "coco": ("configs/coco_blip.yaml", "configs/coco_blip_one_shot.yaml"),
    "miniature": ("configs/miniature.yaml", "configs/miniature_one_shot.yaml"),
}
"""Configurations by data set: (training-free segmentation and InfoScore, one-shot tuning)."""

SCRIPTS = {
    "infoscore": "compute_infoscore_blip",
    "training_free": "training_free_blip",
    "one_shot": "one_shot_blip",
}
"""Entry scripts by experiment, in the order in which they run."""


@dataclass(frozen=True)
class Job:
    """One command of an entry script.

    Attributes:
        data: a key of :data:`CONFIGS`.
        experiment: a key of :data:`SCRIPTS`.
        arguments: of the script.
        entries: all images that may be read; in one-shot tuning also those of supports.
    """

    data: str
    experiment: str
    arguments: list[str]
    task: Task
    entries: list[ListEntry]

    @property
    def prompts(self) -> str:
        """``single`` or ``multi``."""
        return "multi" if "--multi_prompt" in self.arguments else "single"

    @property
    def name(self) -> str:
        """Name on the screen and in the state file: ``pascal training_free multi``."""
        return f"{self.data} {self.experiment} {self.prompts}"

    @property
    def images(self) -> int:
        """Number of images to process, over all runs."""
        oneshot = self.task.config.oneshot
        return len(self.task.entries) * (oneshot.total_runs if self.experiment == "one_shot" and oneshot else 1)

    @property
    def result(self) -> Path:
        """The JSON that the script writes."""
        outputs, config = self.task.outputs, self.task.config
        if self.experiment == "infoscore":
            return outputs.infoscore_csv(config).with_suffix(".json")
        csv = config.output.summary_csv if self.experiment == "one_shot" else config.output.csv
        return outputs.path(csv).with_suffix(".json")

    @property
    def script(self) -> Path:
        return REPOSITORY / f"{SCRIPTS[self.experiment]}.py"

    @property
    def command(self) -> str:
        """The command that gives the same result."""
        return shlex.join(["python", self.script.name, *self.arguments])

    def run(self) -> int:
        """Run the script in this process; returns its exit code and raises its exceptions."""
        with _called_as([self.script.name, *self.arguments]):
            return importlib.import_module(self.script.stem).main(self.arguments) or 0


def read_jobs(args: argparse.Namespace) -> list[Job]:
    """The jobs of the command line, their configurations, class files and image lists read.

    Raises:
        UserError: something is missing or invalid; the message lists all faults in one line.
    """
    jobs: list[Job] = []
    faults: dict[str, None] = {}
    for data in dict.fromkeys(args.data):
        for experiment in SCRIPTS:
            if experiment not in args.only:
                continue
            for multi_prompt in (False,) if experiment == "infoscore" else (False, True):
                try:
                    jobs.append(_read_job(data, experiment, multi_prompt, args))
                except UserError as error:
                    faults.setdefault(f"{data}: {error}")
    if faults:
        raise UserError("; ".join(faults))
    return jobs


def _read_job(data: str, experiment: str, multi_prompt: bool, args: argparse.Namespace) -> Job:
    config = REPOSITORY / CONFIGS[data][experiment == "one_shot"]
    overrides = [text for text in args.set if experiment == "one_shot" or not text.startswith("oneshot.")]
    arguments = ["--config", _short(config), "--output-dir", _short(args.output_dir), "--device", args.device]
    arguments += ["--limit", str(args.limit)] * (args.limit is not None) + ["--set", *overrides] * bool(overrides)
    arguments += ["--multi_prompt"] * multi_prompt + ["--compare"] * (experiment == "infoscore")
    arguments += ["--fresh"] * args.fresh
    asked = argparse.Namespace(
        config=config,
        set=overrides,
        limit=args.limit,
        multi_prompt=multi_prompt,
        output_dir=args.output_dir,
        device=args.device,
        fresh=args.fresh,
        skip_unreadable=False,
    )
    task = Task.read(asked, cli.configuration(asked))
    job = Job(data, experiment, arguments, task, _all_entries(task, experiment))
    _require_files(job)
    check_writable(*task.outputs.files_of(experiment.replace("_", "-"), task.config))
    return job


def _short(path: Path) -> str:
    """``path`` as a user would type it in the current folder."""
    try:
        return str(path.absolute().relative_to(Path.cwd()))
    except ValueError:
        return str(path)


def _all_entries(task: Task, experiment: str) -> list[ListEntry]:
    oneshot = task.config.oneshot
    if experiment != "one_shot" or oneshot is None:
        return task.entries
    entries = evaluation_entries(task.config, whole=True)
    if oneshot.use_training_images_for_supports:
        entries = entries + training_list(task.config)
    return entries


def _require_files(job: Job) -> None:
    """Check in seconds that every image and mask exists, rather than fail after hours."""
    paths = [path for entry in job.entries for path in (entry.image, entry.mask) if path is not None]
    missing = [path for path in paths if not path.exists()]
    if missing:
        remedy = "the miniature is part of the repository" if job.data == "miniature" else "prepare the data again"
        prepare = "" if job.data == "miniature" else f" (python -m tools.prepare {job.data})"
        raise UserError(
            f"{len(missing):,} of {len(paths):,} images and masks of the list do not exist, first {missing[0]}: "
            f"{remedy}{prepare}"
        )


@contextmanager
def _called_as(command: Sequence[str]) -> Iterator[None]:
    """Context in which results record ``command``, which gives the same result when run alone."""
    before, sys.argv = sys.argv, [*command]
    try:
        yield
    finally:
        sys.argv = before
