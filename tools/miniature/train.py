"""Train the tiny BLIP from pictures with captions, never from masks or boxes: python -m tools.miniature.train

    python -m tools.miniature.train                                      the shipped recipe
    python -m tools.miniature.train --steps 300 500 --output /tmp/blip   a trial
    python -m tools.miniature.train --steps 20 20 --scenes 20 --cache /tmp/pairs --output /tmp/blip

1. Draw pictures with captions (tools/miniature/captions.py) into --cache, unless they exist.
2. Train the teacher (teacher.py), a small convolutional network, from them, and save its patch labels.
3. Train the tiny BLIP (student.py): its vision tower with a temporary linear head on the patch labels; at the end
   also image-text matching, and the patch labels on the cross-attention logits of the text layers --layers. The last
   part is short on purpose: one-shot tuning needs a model with good vision that has not fully learned its words.

The output folder is in HuggingFace's format, float16, with training.json: command, times, losses, versions. It is
rewritten during training. Each process runs on one core and takes 32 pictures a step.
"""

from __future__ import annotations

import argparse
import copy
import datetime
import json
import os
import platform
import shlex
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
import transformers
from torch import Tensor, nn
from torch.multiprocessing.spawn import spawn
from transformers import BlipForImageTextRetrieval

from src import cli
from src.files import refuse_special, user_path, write_text
from src.screen import counted, say, say_next
from tools.miniature import student, teacher
from tools.miniature.batches import PictureSampler, PromptSampler, normalise_pixels
from tools.miniature.captions import read_pairs, write_pairs
from tools.miniature.optimizer import FlatAdamW
from tools.miniature.tiny_blip import GRID, WIDTH, build_model, encode_images, match_prompts
from tools.miniature.vocabulary import build_tokenizer, save_tokenizer

BATCH = 32  # pictures per process and step
VISION_ONLY = 0.84  # part of the student's training before matching and attention join
TEACHER_RATE = 4e-3
STUDENT_RATE = 1.5e-3
WARM_UP = 100  # steps
CHECKPOINT_SECONDS = 240
LOG_EVERY = 100  # steps
TRAINED = ("vision_model", "text_encoder", "itm_head")


@dataclass(frozen=True)
class Settings:
    """Options of the command line; see ``--help``."""

    steps: tuple[int, int]  # of the teacher and of the student
    scenes: int
    seed: int
    layers: tuple[int, ...]
    processes: int
    output: Path
    cache: Path


def learning_rate(peak: float, step: int, steps: int) -> float:
    """Rate of ``step`` of ``steps``: a linear warm-up, then a cosine down to a hundredth of ``peak``."""
    return peak * min(1, (step + 1) / WARM_UP) * (0.01 + 0.5 * (1 + np.cos(np.pi * (step / steps))))


@dataclass
class Log:
    """Means of losses and measures over stretches of steps; prints them in the first process."""

    phase: str
    started: float
    entries: list[dict]
    values: list[dict[str, float]] = field(default_factory=list)

    def add(self, step: int, values: dict[str, Tensor]) -> None:
        self.values.append({name: float(value.detach()) for name, value in values.items()})
        if (step + 1) % LOG_EVERY == 0:
            self.flush(step + 1)

    def flush(self, step: int) -> None:
        if not self.values:
            return
        # measures that join halfway through a stretch are averaged over the steps that have them
        names = self.values[-1]
        means = {name: np.mean([values[name] for values in self.values if name in values]) for name in names}
        self.values = []
        entry = {"phase": self.phase, "step": step, "seconds": round(time.monotonic() - self.started)}
        self.entries.append({**entry, **{name: round(float(mean), 4) for name, mean in means.items()}})
        if _first_process():
            say(" ".join(f"{name}={value}" for name, value in self.entries[-1].items()))


class Training:
    """Both phases of the training, in one of several processes; ``scratch`` is a temporary folder that they share."""

    def __init__(self, settings: Settings, rank: int, scratch: Path) -> None:
        self.settings = settings
        self.rank = rank
        self.labels_path = scratch / "labels.npy"
        self.started = time.monotonic()
        self.log: list[dict] = []
        torch.manual_seed(settings.seed)  # all processes begin with the same weights
        self.rng = np.random.default_rng([settings.seed, rank])  # but get different pictures
        pictures, self.captions = read_pairs(settings.cache)
        self.pictures = PictureSampler(pictures, self.captions)
        self.tokenizer = build_tokenizer()

    def train_teacher(self) -> nn.Module:
        """Multiple-instance learning from captions."""
        settings = self.settings
        network = teacher.build_teacher()
        optimizer = FlatAdamW(network.parameters(), [p for p in network.parameters() if p.ndim < 2])
        steps = settings.steps[0]
        log = Log("teacher", self.started, self.log)
        for step in range(steps):
            batch = self.pictures.sample(self._indices(), self.rng)
            logits = teacher.subject_logits(network, batch.pixels, teacher.INPUT_SIDE).flatten(2).transpose(1, 2)
            loss = teacher.caption_loss(logits, batch.named, batch.content)
            loss.backward()
            optimizer.step(learning_rate(TEACHER_RATE, step, steps))
            log.add(step, {"caption_loss": loss})
        log.flush(steps)
        if dist.is_initialized():  # the running means of batch normalisation differ between the processes
            for buffer in network.buffers():
                dist.broadcast(buffer, src=0)
        return network.eval()

    def write_labels(self, network: nn.Module) -> None:
        """The teacher's patch labels of all pictures, float16 [n, N, K]; each process writes a part."""
        count = len(self.captions)
        shape = (count, GRID * GRID, teacher.NUM_SUBJECTS)
        if _first_process():
            np.lib.format.open_memmap(self.labels_path, "w+", np.float16, shape)
        _wait()
        labels = np.load(self.labels_path, mmap_mode="r+")
        for part in np.array_split(np.arange(count), -(-count // 256))[self.rank :: self.settings.processes]:
            pixels = normalise_pixels(self.pictures.pictures[part])
            labels[part] = teacher.patch_labels(network, pixels, self.pictures.named[part], GRID).half().numpy()
        labels.flush()
        _wait()

    def train_student(self) -> None:
        """Train the tiny BLIP and save it."""
        settings = self.settings
        labels = np.load(self.labels_path, mmap_mode="r")
        prompt_sampler = PromptSampler(self.tokenizer)
        model = build_model(self.tokenizer).train()
        head = nn.Linear(WIDTH, teacher.NUM_SUBJECTS)
        trained = {name: p for name, p in model.named_parameters() if name.startswith(TRAINED)}
        undecayed = [p for name, p in trained.items() if p.ndim < 2 or "embeddings" in name]
        optimizer = FlatAdamW([*trained.values(), *head.parameters()], [*undecayed, head.bias])
        steps = settings.steps[1]
        log = Log("student", self.started, self.log)
        saved = time.monotonic()
        for step in range(steps):
            indices = self._indices()
            batch = self.pictures.sample(indices, self.rng)
            patch_labels = mirror_labels(torch.from_numpy(labels[indices]).float(), batch.mirrored)
            losses, measures = {}, {}

            weights = student.patch_weights(patch_labels, batch.content)
            embeds = encode_images(model, batch.pixels)
            losses["head_loss"] = student.head_loss(head(embeds[:, 1:]), patch_labels, weights)
            if step / steps >= VISION_ONLY:
                prompts = prompt_sampler.sample([self.captions[index] for index in indices], self.rng)
                itm_logits, token_logits = match_prompts(model, embeds, prompts.input_ids, prompts.attention_mask)
                supervised = [token_logits[layer] for layer in settings.layers]
                losses["matching_loss"] = student.matching_loss(itm_logits, prompts.wanted)
                losses["attention_loss"] = student.attention_loss(supervised, prompts, patch_labels, weights)
                measures["matching_accuracy"] = student.matching_accuracy(itm_logits, prompts.wanted)
            torch.stack(list(losses.values())).sum().backward()
            optimizer.step(learning_rate(STUDENT_RATE, step, steps))
            log.add(step, losses | measures)
            if _first_process() and time.monotonic() - saved > CHECKPOINT_SECONDS:
                self.save(model, step, finished=False)
                saved = time.monotonic()
        log.flush(steps)
        if _first_process():
            self.save(model, steps, finished=True)

    def save(self, model: BlipForImageTextRetrieval, steps: int, finished: bool) -> None:
        """Write the model in float16, its tokenizer and training.json; each file atomically."""
        output = self.settings.output
        output.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=output.parent) as folder:
            copy.deepcopy(model).half().save_pretrained(folder)
            save_tokenizer(self.tokenizer, Path(folder))
            for file in Path(folder).iterdir():
                file.chmod(0o644)  # safetensors creates private files
                refuse_special(output / file.name)
                os.replace(file, output / file.name)
        report = {
            "command": shlex.join(["python", "-m", "tools.miniature.train", *sys.argv[1:]]),
            "finished": finished,
            "date": datetime.date.today().isoformat(),
            "seconds": round(time.monotonic() - self.started),
            "teacher_steps": max((e["step"] for e in self.log if e["phase"] == "teacher"), default=0),
            "student_steps": steps,
            "pictures": len(self.captions),
            "pictures_per_step": BATCH * self.settings.processes,
            "supervised_layers": list(self.settings.layers),
            "teacher": "convolutional network, multiple-instance learning from the captions; no masks, no boxes",
            "settings": {name: str(value) for name, value in asdict(self.settings).items()},
            "python": platform.python_version(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "losses": self.log,
        }
        write_text(output / "training.json", json.dumps(report, indent=1) + "\n")

    def _indices(self) -> np.ndarray:
        return np.sort(self.rng.integers(0, len(self.captions), BATCH))


def mirror_labels(labels: Tensor, mirrored: Tensor) -> Tensor:
    """Mirror the patch labels [B, N, K] of the pictures that are ``mirrored`` [B]."""
    grid = labels.unflatten(1, (GRID, GRID))
    return torch.where(mirrored[:, None, None, None], grid.flip(2), grid).flatten(1, 2)


def work(rank: int, settings: Settings, scratch: Path) -> None:
    """One process of the training."""
    torch.set_num_threads(1)
    if settings.processes > 1:
        dist.init_process_group(
            "gloo", init_method=f"file://{scratch}/rendezvous", rank=rank, world_size=settings.processes
        )
    training = Training(settings, rank, scratch)
    training.write_labels(training.train_teacher())
    training.train_student()
    if dist.is_initialized():
        dist.destroy_process_group()


def train_blip(settings: Settings) -> None:
    """Draw the pictures, then train in ``settings.processes`` processes."""
    if not (settings.cache / "captions.txt").exists():
        say(f"drawing {counted(settings.scenes, 'scene')} to {settings.cache}")
        write_pairs(settings.cache, settings.scenes, settings.processes)
    # without these, buffers of some megabytes are freed and allocated again at every step
    os.environ.update(MALLOC_MMAP_MAX_="0", MALLOC_TRIM_THRESHOLD_="8000000000", MALLOC_TOP_PAD_="67108864")
    with tempfile.TemporaryDirectory() as scratch:
        if settings.processes == 1:
            work(0, settings, Path(scratch))
        else:
            spawn(work, args=(settings, Path(scratch)), nprocs=settings.processes)
    say(f"wrote {settings.output}")
    command = ["python", "training_free_blip.py", "--config", "configs/miniature.yaml"]
    say_next(shlex.join([*command, "--set", f"model.name={settings.output.resolve()}"]))


def _first_process() -> bool:
    return not dist.is_initialized() or dist.get_rank() == 0


def _wait() -> None:
    """Wait for the other processes."""
    if dist.is_initialized():
        dist.barrier()


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--steps",
        type=int,
        nargs=2,
        default=[1040, 1700],
        metavar=("TEACHER", "STUDENT"),
        help="how long to train both (default: 1040 1700)",
    )
    parser.add_argument(
        "--scenes", type=int, default=12_000, help="scenes to draw, four pictures each (default: 12000)"
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="of the first weights and the order of pictures (default: 0)"
    )
    parser.add_argument("--layers", type=int, nargs="+", default=[0, 1], help="supervised text layers (default: 0 1)")
    parser.add_argument("--processes", type=int, default=2, help="one-thread processes (default: 2)")
    parser.add_argument(
        "--output",
        type=user_path,
        default=Path("results/miniature_blip"),
        help="folder for the model (default: results/miniature_blip; the shipped one is in data/miniature/blip)",
    )
    parser.add_argument(
        "--cache",
        type=user_path,
        default=Path("results/miniature_cache"),
        help="folder of the drawn pictures and captions (default: results/miniature_cache, 2.4 GB)",
    )
    args = parser.parse_args(arguments)
    train_blip(Settings(**{**vars(args), "steps": tuple(args.steps), "layers": tuple(args.layers)}))


if __name__ == "__main__":
    sys.exit(cli.run(main))
