"""Plan a reproduction: what must be computed, and an estimate of the time."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from src.data.dataset import SegmentationDataset
from src.errors import UserError
from src.evaluation import processes
from src.evaluation.evaluate import predict
from src.evaluation.identity import file_digest, fingerprint, settings_of
from src.layer_selection.comparison import compare_layers
from src.method.checkpoints import load_configured
from src.method.model import Model
from src.method.segmenter import Segmenter
from src.runtime import choose_device, share_cores, world_size
from src.screen import counted, duration, note, say
from tools.check import unreadable
from tools.reproduce.jobs import Job
from tools.reproduce.state import State

CODE = {"infoscore": "comparison of layers", "training_free": "training-free", "one_shot": "one-shot"}
"""Names of :data:`src.evaluation.identity.CODE` by experiment."""

LEAST_TIMED = 50
"""Jobs with fewer images end before an estimate would help."""


@dataclass(frozen=True)
class Step:
    """A job and its plan.

    Attributes:
        job: the job.
        settings: everything that its result depends on.
        why: the reason to compute it; None if it is finished.
        seconds: estimated duration from the speed of its first images; None if not timed.
    """

    job: Job
    settings: dict[str, Any]
    why: str | None
    seconds: float | None


def make_plan(jobs: Sequence[Job], state: State) -> list[Step]:
    """Load the models of ``jobs``, find the finished ones, and time the first images of the others.

    Raises:
        UserError: a model cannot be loaded or does not fit its configuration, an image cannot be read.
    """
    models: dict[object, Model] = {}
    steps = []
    device = choose_device(jobs[0].task.device)
    share_cores()
    for job in jobs:
        job = dataclasses.replace(job, task=job.task.for_device())
        config = job.task.config
        key = (config.model, config.runtime.attention)
        if key not in models:
            models[key] = load_configured(config, device)
        model = models[key]
        chosen = model.layers if job.experiment == "infoscore" else config.model.layers
        if chosen == "auto":
            raise config.refusal("model.layers", "auto", "a list of layers: InfoScore is an experiment of its own here")
        segmenter = Segmenter.from_config(config, model, job.task.prompts, chosen)
        settings = _settings(job, segmenter)
        why = processes.share(partial(_why, job, settings, state))
        seconds = _seconds(job, segmenter) if why and job.images >= LEAST_TIMED else None
        steps.append(Step(job, settings, why, seconds))
    return steps


def _why(job: Job, settings: dict[str, Any], state: State) -> str | None:
    """See :class:`Step`."""
    return "to compute again (--fresh)" if job.task.fresh else state.why_not_finished(job.name, settings, job.result)


def _settings(job: Job, segmenter: Segmenter) -> dict[str, Any]:
    config = job.task.config
    settings = settings_of(
        CODE[job.experiment],
        config,
        segmenter,
        job.entries,
        class_names=job.task.prompts.class_names,
        multi_prompt=job.prompts == "multi",
        max_images=config.max_images,
        top_k=config.model.top_k,
        oneshot=dataclasses.asdict(config.oneshot) if job.experiment == "one_shot" and config.oneshot else None,
        files=hashlib.sha256(fingerprint(job.entries, True, "")).hexdigest(),
        script=file_digest(job.script),
    )
    return json.loads(json.dumps(settings))


def _seconds(job: Job, segmenter: Segmenter) -> float:
    """Estimated seconds of ``job``, from the speed of a batch of its images.

    One-shot tuning is counted as its runs over the queries: encoding images once saves about what tuning costs.
    """
    config = job.task.config
    loader = dataclasses.replace(config.dataloader, num_workers=0)
    shared = job.experiment == "infoscore"  # all processes take part
    entries = job.task.entries[: max(2, loader.batch_size) * (world_size() if shared else 1)]
    for _ in range(2 if segmenter.device.type == "cuda" else 1):  # kernels are compiled in the first call
        begin = time.perf_counter()
        if shared:
            compare_layers(segmenter, entries, dataclasses.replace(config, dataloader=loader), config.model.top_k)
        else:
            for prediction in predict(segmenter, SegmentationDataset.from_config(entries, config), loader):
                prediction.labels.cpu()
        elapsed = time.perf_counter() - begin
    return elapsed / len(entries) * job.images / (1 if shared else world_size())


def check_data(steps: Sequence[Step]) -> None:
    """Decode every image and mask of the jobs to compute. Raises a UserError with all faults."""
    faults = processes.share(partial(_faults, steps))
    for fault in faults:
        note(f"fault: {fault}")
    if faults:
        unusable = "1 image or mask" if len(faults) == 1 else f"{len(faults):,} images or masks"
        raise UserError(f"{unusable} cannot be used: see above; fix what is wrong and rerun")


def _faults(steps: Sequence[Step]) -> list[str]:
    faults: list[str] = []
    jobs = [step.job for step in steps if step.why is not None]
    for data in dict.fromkeys(job.data for job in jobs):
        ours = [job for job in jobs if job.data == data]
        entries = {entry.image: entry for job in ours for entry in job.entries}
        faults += unreadable([*entries.values()], ours[0].task.config, f"{data}: images and masks")
    return faults


def tell(steps: Sequence[Step]) -> None:
    """Print what is finished, what will be computed, and how long it will take."""
    for step in steps:
        what = step.why or f"finished: {step.job.result.name}"
        long = f", about {duration(step.seconds)}" if step.seconds is not None else ""
        say(f"{step.job.name}: {counted(step.job.images, 'image')}, {what}{long}")
    known = [step.seconds for step in steps if step.seconds is not None]
    to_do = sum(step.why is not None for step in steps)
    say(f"{to_do} of {len(steps)} to compute" + (f", about {duration(sum(known))}" if known else ""))
