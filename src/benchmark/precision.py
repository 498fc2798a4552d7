"""What bfloat16 changes against float32."""

from __future__ import annotations

import torch

from src.benchmark import workload
from src.benchmark.options import Options
from src.benchmark.ours import Ours
from src.config.reader import load_config
from src.config.schema import CrfConfig
from src.data.dataset import SegmentationDataset, batches
from src.data.lists import evaluation_entries
from src.evaluation.evaluate import predictions_of
from src.evaluation.metrics import ConfusionMatrix
from src.method.blip import load_configured
from src.method.prompts import build_prompts, read_class_file
from src.method.segmenter import Segmenter, labels_of
from src.paths import REPOSITORY, resolve
from src.runtime import choose_device
from src.screen import say

MINIATURE = REPOSITORY / "configs/miniature.yaml"
MINIATURE_LAYERS = (0, 1)


def precision(options: Options) -> None:
    """Print mIoU on the miniature in both formats, and the share of labels that differ there and at full size."""
    device = choose_device(options.device)
    say("| | mIoU float32 | mIoU bfloat16 | labels that differ |\n|---|---|---|---|")
    for iterations in (0, CrfConfig().iters):
        _miniature(options, device, iterations)
    _full_size(options, device)


@torch.no_grad()
def _miniature(options: Options, device: torch.device, iterations: int) -> None:
    configs = [load_config(MINIATURE, [f"crf.iters={iterations}", f"runtime.amp={amp}"]) for amp in ("false", "bf16")]
    config = configs[0]
    blip = load_configured(config, device)
    classes = read_class_file(resolve(config.class_name_dir), config.dataset.num_classes)
    prompts = build_prompts(classes, options.multi_prompt)
    formats = [Segmenter.from_config(each, blip, prompts, MINIATURE_LAYERS) for each in configs]
    counts = [ConfusionMatrix(len(classes), config.dataset.ignore_label, device) for _ in formats]
    differing, pixels = 0, 0
    dataset = SegmentationDataset.from_config(evaluation_entries(config), config)
    for batch in batches(dataset, config.dataloader, device):
        scores = [segmenter.segment(batch.pixels) for segmenter in formats]
        for pair in zip(*(predictions_of(batch, each, dataset) for each in scores), strict=True):
            for prediction, confusion in zip(pair, counts, strict=True):
                confusion.update(prediction.labels, prediction.target)
            differing += int((pair[0].labels != pair[1].labels).sum())
            pixels += pair[0].labels.numel()
    mious = " | ".join(f"{100 * confusion.miou:.2f}" for confusion in counts)
    say(f"| miniature, {'CRF' if iterations else 'no CRF'} | {mious} | {differing / pixels:.3%} |")


@torch.no_grad()
def _full_size(options: Options, device: torch.device) -> None:
    """With random weights, among the foreground classes: the background's many prompts win everywhere."""
    full = Ours(options, device).segmenter
    other = Segmenter(full.blip, full.prompts, full.layers, full.frame, None, "bf16")
    images = [workload.read(workload.photo(seed), full.frame.size) for seed in range(options.batch_size)]
    pixels = torch.stack(images).to(device)
    unaries = [segmenter.unary(segmenter.attend(segmenter.encode_images(pixels))) for segmenter in (full, other)]
    for name, scores in (("no CRF", unaries), ("CRF", [full.refine(unary, pixels) for unary in unaries])):
        one, two = (labels_of(maps[:, 1:]) for maps in scores)
        share = (one != two).float().mean().item()
        say(f"| full size, random weights, {len(pixels)} photos, {name} | | | {share:.3%} |")
