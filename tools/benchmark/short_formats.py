"""How results in shorter number formats differ from float32."""

from __future__ import annotations

from typing import Literal

import torch

from src.config.reader import load_config
from src.config.schema import CrfConfig
from src.data.dataset import SegmentationDataset, batches
from src.data.lists import evaluation_entries
from src.evaluation.evaluate import predictions_of
from src.evaluation.metrics import ConfusionMatrix
from src.files import REPOSITORY, resolve
from src.method.checkpoints import load_configured
from src.method.prompts import build_prompts, read_class_file
from src.method.segmenter import Segmenter, labels_of
from src.runtime import choose_device
from src.screen import counted, say
from tools.benchmark import workload
from tools.benchmark.options import Options
from tools.benchmark.ours import Ours

MINIATURE = REPOSITORY / "configs/miniature.yaml"
MINIATURE_LAYERS = (0, 1)
SHORT: dict[Literal["bf16", "fp16"], str] = {"bf16": "bfloat16", "fp16": "float16"}


def compare_formats(options: Options) -> None:
    """Print mIoU on the miniature in each format, and the share of labels that differ from float32's there and at full
    size."""
    device = choose_device(options.device)
    headers = [f"mIoU {name} | labels that differ" for name in SHORT.values()]
    say(f"| | mIoU float32 | {' | '.join(headers)} |\n|---|---{'|---|---' * len(SHORT)}|")
    for iterations in (0, CrfConfig().iters):
        _miniature(options, device, iterations)
    _full_size(options, device)


@torch.no_grad()
def _miniature(options: Options, device: torch.device, iterations: int) -> None:
    configs = [load_config(MINIATURE, [f"crf.iters={iterations}", f"runtime.amp={amp}"]) for amp in ("false", *SHORT)]
    config = configs[0]
    model = load_configured(config, device)
    classes = read_class_file(resolve(config.class_name_dir), config.dataset.num_classes)
    prompts = build_prompts(classes, options.multi_prompt)
    formats = [Segmenter.from_config(each, model, prompts, MINIATURE_LAYERS) for each in configs]
    counts = [ConfusionMatrix(len(classes), config.dataset.ignore_label, device) for _ in formats]
    differing, pixels = [0] * len(formats), 0
    dataset = SegmentationDataset.from_config(evaluation_entries(config), config)
    for batch in batches(dataset, config.dataloader, device):
        scores = [segmenter.segment(batch.pixels) for segmenter in formats]
        for predictions in zip(*(predictions_of(batch, each, dataset) for each in scores), strict=True):
            exact = predictions[0].labels
            for number, (prediction, confusion) in enumerate(zip(predictions, counts, strict=True)):
                confusion.update(prediction.labels, prediction.target)
                differing[number] += int((prediction.labels != exact).sum())
            pixels += exact.numel()
    mious = [f"{100 * confusion.miou:.2f}" for confusion in counts]
    short = [f"{miou} | {count / pixels:.3%}" for miou, count in zip(mious[1:], differing[1:], strict=True)]
    say(f"| miniature, {'CRF' if iterations else 'no CRF'} | {mious[0]} | {' | '.join(short)} |")


@torch.no_grad()
def _full_size(options: Options, device: torch.device) -> None:
    """With random weights, among the foreground classes: the background's many prompts win everywhere."""
    full = Ours(options, device).segmenter
    images = [workload.decode_photo(workload.photo(seed), full.frame.size) for seed in range(options.batch_size)]
    pixels = torch.stack(images).to(device)
    shares: dict[str, list[str]] = {"no CRF": [], "CRF": []}
    exact = {}
    for amp in (False, *SHORT):
        segmenter = Segmenter(full.model, full.prompts, full.layers, full.frame, None, amp)
        unary = segmenter.unary(segmenter.attend(segmenter.encode_images(pixels)))
        segmenter.check_numbers()
        for name, scores in (("no CRF", unary), ("CRF", full.refine(unary, pixels))):
            labels = labels_of(scores[:, 1:])
            share = (labels != exact.setdefault(name, labels)).float().mean().item()
            shares[name] += [f" | {share:.3%}"] if amp else []
    for name, short in shares.items():
        say(f"| full size, random weights, {counted(len(pixels), 'photo')}, {name} | | {' | '.join(short)} |")
