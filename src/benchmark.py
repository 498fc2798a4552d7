"""How much faster, in how much less memory: this project against the plain formulas of the method, in one run.

    python -m src.benchmark                                  # PASCAL single-prompt, stage by stage
    python -m src.benchmark --vocabulary coco --multi_prompt
    python -m src.benchmark --what infoscore
    python -m src.benchmark --what tuning                    # one step of two images
    python -m src.benchmark --what runs                      # one query image in five runs of one-shot tuning
    python -m src.benchmark --what growth --plot docs/growth.png
    python -m src.benchmark --what precision                 # what bfloat16 changes
    python -m src.benchmark --device cuda --batch-size 16

Plain is what the method says, done one thing after the other: HuggingFace's eager attention, float32, every image
repeated for every prompt, full-size maps, the unfold-everything CRF, one image at a time, images encoded again at every
step and run (tests/oracles). Both sides run a BLIP of blip-itm-large's shape with the same random weights on the same
synthetic photo, each in a process of its own, so that peak memory is its own. The floor of a stage is the time of its
matrix products at the rate of one large product on this machine; no implementation in float32 can be faster.
"""

from __future__ import annotations

import argparse
import io
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import BlipConfig, BlipForImageTextRetrieval

from src.config.reader import load_config
from src.config.schema import CrfConfig, OneShotConfig
from src.data.dataset import SegmentationDataset, batches
from src.data.frame import Letterbox, preprocess
from src.data.lists import evaluation_entries
from src.evaluation.evaluate import predictions_of
from src.evaluation.metrics import ConfusionMatrix
from src.layer_selection.infoscore import InfoScore
from src.method.blip import Blip, load_configured, prepare
from src.method.crf import ConvCRF
from src.method.prompts import PromptSet, build_prompts, read_class_file
from src.method.segmenter import Segmenter, labels_of
from src.one_shot.tuning import LabelledImage, Tunable, tune
from src.paths import REPOSITORY, resolve
from src.runtime import choose_device
from tests.oracles import stages
from tests.oracles.crf import plain_crf
from tests.oracles.method import plain_encode
from tests.oracles.tuning import plain_tune

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
LAYERS = (0, 3)
CLASSES = {"pascal": 21, "coco": 81}
MINIATURE = REPOSITORY / "configs/miniature.yaml"
AMP = {"false": False, "true": True, "bf16": "bf16"}


class Words:
    """A stand-in for BERT's tokenizer, which cannot be had offline: a token per word, as most of the words are."""

    unk_token_id = 100

    def __call__(self, prompts: list[str], **_: Any) -> Any:
        # "Image of x." -> [CLS] image of x . [SEP]
        words = [prompt.removesuffix(".").split() for prompt in prompts]
        rows = [[101, *(1000 + sum(map(ord, word)) % 20000 for word in some), 1012, 102] for some in words]
        longest = max(map(len, rows))
        ids = torch.tensor([row + [0] * (longest - len(row)) for row in rows])
        return argparse.Namespace(input_ids=ids, attention_mask=(ids != 0).long())


def blip_large() -> BlipForImageTextRetrieval:
    """blip-itm-large's architecture with random weights (HuggingFace's own vision range would be 1e-10)."""
    torch.manual_seed(0)
    text = {"hidden_size": 768, "encoder_hidden_size": 1024, "num_attention_heads": 12, "num_hidden_layers": 12}
    vision = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16}
    config = BlipConfig(
        text_config={**text, "intermediate_size": 3072, "vocab_size": 30524, "initializer_range": 0.04},
        vision_config={**vision, "image_size": 384, "patch_size": 16, "initializer_range": 0.04},
        image_text_hidden_size=256,
    )
    return BlipForImageTextRetrieval(config).eval()


def vocabulary(args: argparse.Namespace) -> PromptSet:
    """The prompts of the benchmark; ``--prompts N`` repeats words of the vocabulary until there are N."""
    path = REPOSITORY / f"configs/classes/{args.vocabulary}.json"
    prompts = build_prompts(read_class_file(path, CLASSES[args.vocabulary]), args.multi_prompt)
    extra = (args.prompts or len(prompts)) - len(prompts)
    if extra < 0:
        raise SystemExit(f"--prompts {args.prompts}: {args.vocabulary} alone has {len(prompts)}")
    words = prompts.words + tuple(prompts.words[n % len(prompts)] for n in range(extra))
    if args.all_classes:
        return PromptSet(words, words, (1,) * len(words))
    # the last class takes the rest: classes decide the size of the maps, prompts that of the text encoder's work
    counts = (*prompts.prompts_per_class[:-1], prompts.prompts_per_class[-1] + extra)
    return PromptSet(prompts.class_names, words, counts)


def photo(seed: int) -> bytes:
    """A JPEG of a VOC photo's size with smooth structure and noise."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (12, 16, 3), dtype=np.uint8))
    smooth = np.asarray(coarse.resize((500, 375), Image.Resampling.BICUBIC))
    pixels = np.clip(smooth + rng.normal(0, 8, (375, 500, 3)), 0, 255).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=92)
    return buffer.getvalue()


def read(jpeg: bytes, size: int) -> torch.Tensor:
    """Decode, letterbox and normalise: [3, S, S]."""
    with Image.open(io.BytesIO(jpeg)) as image:
        pixels = np.asarray(image.convert("RGB"))
    return preprocess(pixels, Letterbox(*pixels.shape[:2], size), MEAN, STD)


class Stopwatch:
    """Times named stages; waits for CUDA at both ends."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.seconds: dict[str, float] = {}

    def __call__(self, name: str, function: Callable[..., Any], *arguments: Any) -> Any:
        """``function(*arguments)``, whose seconds are added to stage ``name``."""
        self._wait()
        start = time.perf_counter()
        result = function(*arguments)
        self._wait()
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start
        return result

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


class Ours:
    """This project's way, stage by stage."""

    def __init__(self, args: argparse.Namespace, device: torch.device) -> None:
        model = prepare(blip_large().to(device))
        self.blip = Blip(model, Words(), "random BLIP-large")
        self.size = args.image_size
        layers = range(12) if args.what == "infoscore" else LAYERS
        crf = ConvCRF(iterations=CrfConfig().iters)
        self.segmenter = Segmenter(self.blip, vocabulary(args), layers, self.size, crf, AMP[args.amp])
        self.device = device

    def segment(self, watch: Stopwatch, jpegs: list[bytes], embeds: torch.Tensor | None = None) -> None:
        """One batch from JPEG to counted labels."""
        segmenter = self.segmenter
        pixels = watch("read", self._read, jpegs)
        with torch.no_grad():
            if embeds is None:
                embeds = watch("vision", segmenter.encode_images, pixels)
            seen = watch("text", segmenter.attend, embeds)
            unary = watch("maps", segmenter.unary, seen)
            scores = watch("CRF", segmenter.refine, unary, pixels)
            watch("metric", count, scores, labels_of)

    def infoscore(self, watch: Stopwatch, jpegs: list[bytes]) -> None:
        """All layers' scores of one batch."""
        segmenter = self.segmenter
        pixels = watch("read", self._read, jpegs)
        with torch.no_grad():
            embeds = watch("vision", segmenter.encode_images, pixels)
            seen = watch("text", segmenter.attend, embeds)
            scores = InfoScore(len(segmenter.layers), self.size)
            watch("maps", lambda: [scores.update(layer, seen.prompt_maps(layer)) for layer in segmenter.layers])

    def tuning(self, watch: Stopwatch, jpegs: list[bytes]) -> None:
        """One optimiser step on two images, which were encoded before: that is done once per run."""
        images = []
        for jpeg, labels in zip(jpegs, random_labels(self.size, len(jpegs)), strict=True):
            embeds = self.segmenter.encode_images(read(jpeg, self.size)[None].to(self.device))[0]
            images.append(LabelledImage(embeds, labels.to(self.device)))
        tunable = Tunable(self.segmenter)
        one_step = OneShotConfig(num_iterations=1, batch_gradient_accumulation=len(images))
        watch("step", tune, tunable, images, one_step, 255, "tuning")

    def nothing(self, watch: Stopwatch, jpegs: list[bytes]) -> None:
        """Only what the model itself takes."""
        watch("nothing", lambda: None)

    def runs(self, watch: Stopwatch, jpegs: list[bytes]) -> None:
        """A query image in five runs: encoded once, its embeddings kept."""
        embeds = watch("vision", self.segmenter.encode_images, self._read(jpegs))
        for _ in range(5):
            self.segment(watch, jpegs, embeds)

    def _read(self, jpegs: list[bytes]) -> torch.Tensor:
        return torch.stack([read(jpeg, self.size) for jpeg in jpegs]).to(self.device)


class Plain:
    """The method's formulas, one after the other."""

    def __init__(self, args: argparse.Namespace, device: torch.device) -> None:
        self.model = blip_large().to(device)
        self.prompts = vocabulary(args)
        tokens = Words()(self.prompts.prompts)
        self.tokens = tokens.input_ids.to(device), tokens.attention_mask.to(device)
        self.size = args.image_size
        self.device = device
        self.layers = range(12) if args.what == "infoscore" else LAYERS

    def segment(self, watch: Stopwatch, jpegs: list[bytes]) -> None:
        """One image after the other from JPEG to counted labels."""
        for jpeg in jpegs:
            pixels = watch("read", self._read, jpeg)
            itm, logits = self._look(watch, pixels)
            unary = watch("maps", stages.unary, logits, itm, self.prompts.prompts_per_class, self.size)
            scores = watch("CRF", plain_crf, unary, pixels, CrfConfig().iters)
            watch("metric", count, scores, lambda scores: scores.argmax(1))

    def infoscore(self, watch: Stopwatch, jpegs: list[bytes]) -> None:
        """All layers' shares, image by image, through full-size maps."""
        for jpeg in jpegs:
            itm, logits = self._look(watch, watch("read", self._read, jpeg))
            watch("maps", lambda itm=itm, logits=logits: [stages.shares(layer, itm, self.size) for layer in logits])

    def _read(self, jpeg: bytes) -> torch.Tensor:
        return read(jpeg, self.size)[None].to(self.device)

    @torch.no_grad()
    def _look(self, watch: Stopwatch, pixels: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
        embeds = watch("vision", plain_encode, self.model, pixels)
        return watch("text", stages.attend, self.model, *self.tokens, embeds, self.layers)

    def tuning(self, watch: Stopwatch, jpegs: list[bytes]) -> None:
        """One optimiser step on two images, differentiated through the vision tower."""
        images = [read(jpeg, self.size) for jpeg in jpegs]
        supports = list(zip(images, random_labels(self.size, len(images)), strict=True))
        counts = self.prompts.prompts_per_class
        watch("step", plain_tune, self.model, *self.tokens, counts, supports, LAYERS, 1, len(supports), 2e-4, 0.05)

    def runs(self, watch: Stopwatch, jpegs: list[bytes]) -> None:
        """A query image in five runs: all of it five times."""
        for _ in range(5):
            self.segment(watch, jpegs)


def count(scores: torch.Tensor, label: Callable[[torch.Tensor], torch.Tensor]) -> None:
    """Count labels against some truth: the work of the metric."""
    confusion = ConfusionMatrix(scores.shape[1], 255, scores.device)
    labels = label(scores)
    confusion.update(labels, labels)


def random_labels(size: int, images: int) -> list[torch.Tensor]:
    """Label maps [S, S] with a few classes."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.randint(0, 5, (images, 8, 8), generator=generator, dtype=torch.uint8)
    return list(coarse.repeat_interleave(size // 8, 1).repeat_interleave(size // 8, 2))


def measure(side: str, args: argparse.Namespace) -> dict[str, Any]:
    """Time one side in this process: seconds per stage and image, peak memory above what the model takes."""
    device = choose_device(args.device)
    job = {"ours": Ours, "plain": Plain}[side](args, device)
    images = 2 if args.what == "tuning" else args.batch_size
    jpegs = [photo(seed) for seed in range(images)]
    work = getattr(job, {"growth": "segment", "segment": "segment"}.get(args.what, args.what))
    # plain takes from half a minute to several: only where that is bearable is it warmed up, and never repeated
    for _ in range(args.warm_up if side == "ours" or args.what == "segment" else 0):
        work(Stopwatch(device), jpegs)
    watches = []
    for _ in range(args.repeats if side == "ours" else 1):
        watch = Stopwatch(device)
        work(watch, jpegs)
        watches.append(watch)
    fastest = min(watches, key=lambda watch: sum(watch.seconds.values()))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    if device.type == "cuda":
        peak = torch.cuda.max_memory_allocated(device)
    parts = 1 if args.what == "tuning" else images
    return {"seconds": {name: value / parts for name, value in fastest.seconds.items()}, "peak_bytes": peak}


def measure_apart(side: str, args: argparse.Namespace, **changes: Any) -> dict[str, Any]:
    """:func:`measure` in a process of its own, with some options changed."""
    options = {**vars(args), **changes}
    command = [sys.executable, "-m", "src.benchmark", "--side", side, "--options", json.dumps(options)]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{side} failed:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def floors(args: argparse.Namespace) -> dict[str, float]:
    """Least seconds per image of each stage: matrix products at a measured rate, memory at a measured copy rate."""
    device = choose_device(args.device)
    rate, copy = matmul_rate(device), copy_rate(device)
    prompts = vocabulary(args)
    tokens = Words()(prompts.prompts).input_ids.numel()
    classes, size, patches = len(prompts.class_names), args.image_size, 1 + (args.image_size // 16) ** 2
    vision = 24 * 2 * (12 * patches * 1024**2 + 2 * patches**2 * 1024)
    keys_values = 2 * patches * 1024 * 768
    text = 12 * 2 * (14 * tokens * 768**2 + keys_values + 2 * tokens * patches * 768)
    iterations, full_size = CrfConfig().iters, 4 * classes * size**2
    crf = max(iterations * 2 * 225 * classes * (size // 4) ** 2 / rate, iterations * full_size / copy)
    once = full_size / copy
    least = {"vision": vision / rate, "text": text / rate, "maps": once, "CRF": crf, "metric": once}
    if args.what == "infoscore":
        del least["CRF"], least["metric"]
        least["maps"] = 0.0  # patch maps: next to nothing
    if args.what == "tuning":
        least = {"step": 2 * 2 * text / rate}  # two images, forward and backward
    if args.what == "runs":
        least = {name: seconds * (1 if name == "vision" else 5) for name, seconds in least.items()}
    return least


def matmul_rate(device: torch.device) -> float:
    """Floating-point operations per second of one large float32 product."""
    a = torch.randn(2048, 2048, device=device)
    return 2 * 2048**3 / best_of(lambda: a @ a, device)


def copy_rate(device: torch.device) -> float:
    """Bytes per second read by one large copy."""
    a = torch.empty(64 * 2**20, device=device)
    b = torch.empty_like(a)
    return a.nbytes / best_of(lambda: b.copy_(a), device)


def best_of(function: Callable[[], Any], device: torch.device, tries: int = 8) -> float:
    """Seconds of the fastest of some calls."""
    times = []
    for _ in range(tries):
        watch = Stopwatch(device)
        watch("call", function)
        times.append(watch.seconds["call"])
    return min(times)


def compare(args: argparse.Namespace) -> None:
    """Both sides, one after the other; prints a Markdown table of seconds per image."""
    ours, plain = measure_apart("ours", args), measure_apart("plain", args)
    bare = measure_apart("ours", args, what="nothing")["peak_bytes"]
    least = floors(args)
    print("| stage | plain, s | ours, s | ratio | floor, s |\n|---|---|---|---|---|")
    totals = [sum(side["seconds"].values()) for side in (plain, ours)]
    for name, seconds in ours["seconds"].items():
        before = plain["seconds"][name]
        floor = f"{least[name]:.3f}" if name in least else ""
        print(f"| {name} | {before:.3f} | {seconds:.3f} | {before / seconds:.1f} x | {floor} |")
    ratio = totals[0] / totals[1]
    print(f"| **whole** | {totals[0]:.2f} | {totals[1]:.2f} | **{ratio:.1f} x** | {sum(least.values()):.2f} |")
    memory = [side["peak_bytes"] / 2**30 for side in (plain, ours)]
    model = bare / 2**30
    print(f"| peak, GiB | {memory[0]:.2f} | {memory[1]:.2f} | {memory[0] / memory[1]:.1f} x | {model:.2f} (model) |")
    above = [peak - model for peak in memory]
    print(f"| of it above the model, GiB | {above[0]:.2f} | {above[1]:.2f} | {above[0] / above[1]:.1f} x | |")


def growth(args: argparse.Namespace) -> None:
    """Ours over prompts, image size and batch; prints a table and draws a plot."""
    prompts = (49, 116, 179, 500, 1000)
    curves = [
        ("prompts", f"{CLASSES[args.vocabulary]} classes", prompts, {}),
        ("prompts", "every prompt a class", prompts, {"all_classes": True}),
        ("image_size", "", (384, 512, 768), {}),
        ("batch_size", "", (1, 2, 4, 8), {}),
    ]
    drawn: list[tuple[str, str, dict[int, float]]] = []
    bare = measure_apart("ours", args, what="nothing")["peak_bytes"]
    print("| | images / s | GiB above the model |\n|---|---|---|")
    for option, label, values, others in curves:
        speeds = {}
        for value in values:
            found = measure_apart("ours", args, what="growth", **{option: value}, **others)
            speeds[value] = 1 / sum(found["seconds"].values())
            extra = (found["peak_bytes"] - bare) / 2**30
            row = f"{value} {option}, {label}" if label else f"{option.replace('_', ' ')} {value}"
            print(f"| {row} | {speeds[value]:.3f} | {extra:.2f} |", flush=True)
        drawn.append((option.replace("_", " "), label, speeds))
    if args.plot:
        draw_growth(Path(args.plot), drawn)


def draw_growth(path: Path, curves: list[tuple[str, str, dict[int, float]]]) -> None:
    """Plot curves (what grows, label, images per second by its value), one panel for each thing that grows."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 3.2), layout="constrained")
    names = list(dict.fromkeys(name for name, _, _ in curves))
    for axes, name in zip(figure.subplots(1, len(names)), names, strict=True):
        shown = [(label, speeds) for other, label, speeds in curves if other == name]
        for label, speeds in shown:
            axes.plot(list(speeds), list(speeds.values()), marker="o", label=label)
        if len(shown) > 1:
            axes.legend()
        ticks = [value for value in shown[0][1] if value != 116]  # too near to its neighbours
        axes.set(xlabel=name, xticks=ticks, ylim=(0, 1.1 * max(max(speeds.values()) for _, speeds in shown)))
        axes.grid(alpha=0.3)
    figure.axes[0].set_ylabel("images / s")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


@torch.no_grad()
def precision(args: argparse.Namespace) -> None:
    """What bfloat16 changes against float32: mIoU on the miniature, and the share of labels that differ there and at
    full size (random weights; among the foreground classes, because the background's many prompts win everywhere)."""
    device = choose_device(args.device)
    print("| | mIoU float32 | mIoU bfloat16 | labels that differ |\n|---|---|---|---|")
    for iterations in (0, CrfConfig().iters):
        configs = [
            load_config(MINIATURE, [f"crf.iters={iterations}", f"runtime.amp={amp}"]) for amp in ("false", "bf16")
        ]
        config = configs[0]
        blip = load_configured(config, device)
        classes = read_class_file(resolve(config.class_name_dir), config.dataset.num_classes)
        prompts = build_prompts(classes, args.multi_prompt)
        formats = [Segmenter.from_config(each, blip, prompts, config.model.layers) for each in configs]
        counts = [ConfusionMatrix(len(classes), config.dataset.ignore_label, device) for _ in formats]
        differing, pixels = 0, 0
        for batch in batches(SegmentationDataset(evaluation_entries(config), config), config, device):
            scores = [segmenter.segment(batch["pixels"]) for segmenter in formats]
            for pair in zip(*(predictions_of(batch, each, config) for each in scores), strict=True):
                for prediction, confusion in zip(pair, counts, strict=True):
                    confusion.update(prediction.labels, prediction.target)
                differing += int((pair[0].labels != pair[1].labels).sum())
                pixels += pair[0].labels.numel()
        mious = " | ".join(f"{100 * confusion.miou:.2f}" for confusion in counts)
        print(f"| miniature, {'CRF' if iterations else 'no CRF'} | {mious} | {differing / pixels:.3%} |", flush=True)

    full = Ours(args, device).segmenter
    other = Segmenter(full.blip, full.prompts, full.layers, full.image_size, None, "bf16")
    photos = torch.stack([read(photo(seed), full.image_size) for seed in range(args.batch_size)]).to(device)
    unaries = [segmenter.unary(segmenter.attend(segmenter.encode_images(photos))) for segmenter in (full, other)]
    for name, scores in (("no CRF", unaries), ("CRF", [full.refine(unary, photos) for unary in unaries])):
        one, two = (labels_of(maps[:, 1:]) for maps in scores)
        share = (one != two).float().mean().item()
        print(f"| full size, random weights, {len(photos)} photos, {name} | | | {share:.3%} |", flush=True)


def main(arguments: list[str] | None = None) -> None:
    """Parse the command line and run what it asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    whats = ("segment", "infoscore", "tuning", "runs", "growth", "precision", "nothing")
    parser.add_argument("--what", choices=whats[:-1], default="segment", help="what to time (default: segment)")
    parser.add_argument("--vocabulary", choices=tuple(CLASSES), default="pascal")
    parser.add_argument("--multi_prompt", action="store_true")
    parser.add_argument("--prompts", type=int, help="so many prompts, by repeating words")
    parser.add_argument("--all-classes", action="store_true", help="every prompt is a class of its own")
    parser.add_argument("--image-size", type=int, default=512)
    parser.add_argument("--batch-size", type=int, default=1, help="images per batch of ours; plain takes one by one")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--amp", choices=tuple(AMP), default="false", help="as runtime.amp (default: false)")
    parser.add_argument("--repeats", type=int, default=3, help="timed repetitions of ours, of which the fastest counts")
    parser.add_argument("--warm-up", type=int, default=1)
    parser.add_argument("--plot", help="where to draw the plot of --what growth")
    parser.add_argument("--side", choices=("ours", "plain"), help=argparse.SUPPRESS)
    parser.add_argument("--options", help=argparse.SUPPRESS)
    args = parser.parse_args(arguments)
    if args.side:
        print(json.dumps(measure(args.side, argparse.Namespace(**json.loads(args.options)))))
        return
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, device {choose_device(args.device)}")
    {"growth": growth, "precision": precision}.get(args.what, compare)(args)


if __name__ == "__main__":
    main()
