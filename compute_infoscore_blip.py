"""Rank the layers of BLIP's text encoder by InfoScore, without labels.

    python compute_infoscore_blip.py --config configs/pascal_blip.yaml
    python compute_infoscore_blip.py --config configs/coco_blip.yaml --limit 500 --top 3
    python compute_infoscore_blip.py --config configs/pascal_blip.yaml --set val_list=my_photos/
    python compute_infoscore_blip.py --config configs/pascal_blip.yaml --compare

The single-prompt set is used, as in the paper. val_list may be a list with or without masks, or a folder of images;
only --compare needs masks: it sets InfoScore against the mIoU of every single layer, of the top layers together, of all
layers and of the last.

Results: output.infoscore_csv (a row per layer), a JSON and a chart beside it; with --compare a scatter plot too.
"""

from __future__ import annotations

import argparse
import sys
from typing import Any

from src import cli
from src.data.lists import evaluation_entries
from src.files import check_writable
from src.layer_selection.comparison import Comparison, compare
from src.layer_selection.infoscore import COLUMNS, LayerScores
from src.layer_selection.ranking import rank_layers, ranking_segmenter
from src.method.blip import load_configured
from src.method.prompts import read_class_file
from src.output import charts, results
from src.paths import resolve
from src.runtime import choose_device


def main(arguments: list[str]) -> None:
    """Run the experiment that ``arguments`` describe."""
    args = _parser().parse_args(arguments)
    if args.top:
        args.set.append(f"model.top_k={args.top}")
    config = cli.load(args)
    device = choose_device(args.device)
    classes = read_class_file(resolve(config.class_name_dir), config.dataset.num_classes)
    entries = evaluation_entries(config, masks=args.compare)
    csv = results.Outputs(args.output_dir, multi_prompt=False).infoscore_csv(config)
    check_writable(csv)

    blip = load_configured(config, device)
    segmenter = ranking_segmenter(config, blip, classes)
    print(f"{blip.name} on {device}: {len(segmenter.prompts)} prompts, {blip.num_layers} layers, {len(entries)} images")

    comparison = None
    if args.compare:
        comparison = compare(segmenter, entries, config, config.model.top_k, scratch=csv.parent)
    scores = comparison.scores if comparison else rank_layers(segmenter, entries, config)

    top = scores.top(config.model.top_k)
    results.write_result(csv, results.csv_text(COLUMNS, scores.rows()))
    values: dict[str, Any] = {
        "experiment": "infoscore",
        "images": len(entries),
        "layers_by_infoscore": scores.ranking,
        "table": [dict(zip(COLUMNS, row, strict=True)) for row in scores.rows()],
        **results.provenance(config, segmenter.prompts, top, device),
    }
    if comparison:
        values["comparison"] = _comparison_values(comparison)
    results.write_json(csv.with_suffix(".json"), values)
    charts.infoscore_bars(csv.with_suffix(".png"), scores.infoscore.tolist(), top)
    print(_table(scores))
    print(f"wrote {csv}, {csv.with_suffix('.json').name} and {csv.with_suffix('.png').name}")
    if comparison:
        scatter = csv.with_name(f"{csv.stem}_against_miou.png")
        charts.infoscore_scatter(scatter, scores.infoscore.tolist(), comparison.single_layer_miou, top, comparison.rho)
        print(_comparison_table(comparison))
        print(f"wrote {scatter}")
    print(f"to use the best {len(top)}, set in the configuration's section model:\nlayers: {top}")


def _table(scores: LayerScores) -> str:
    lines = [
        f"{'layer':>7}{'image entropy':>15}{'dataset entropy':>17}{'ratio':>9}{'CoV':>10}{'InfoScore':>11}{'rank':>6}"
    ]
    for layer, image, dataset, ratio, cov, infoscore, rank in scores.rows():
        lines.append(f"{layer:>7}{image:>15.4f}{dataset:>17.4f}{ratio:>9.4f}{cov:>10.3f}{infoscore:>11.3f}{rank:>6}")
    return "\n".join(lines)


def _comparison_table(comparison: Comparison) -> str:
    lines = [f"  {'layers':<34}mIoU"]
    lines += [
        f"  {f'{choice.name} {list(choice.layers)}':<34}{100 * choice.confusion.miou:5.2f}"
        for choice in comparison.choices
    ]
    return "\n".join([*lines, f"  Spearman's rho between InfoScore and mIoU of the layers: {comparison.rho:.2f}"])


def _comparison_values(comparison: Comparison) -> dict[str, Any]:
    choices = [{"name": c.name, "layers": c.layers, "miou": c.confusion.miou} for c in comparison.choices]
    return {"spearman_rho": comparison.rho, "choices": choices}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="compute_infoscore_blip.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    cli.common_arguments(parser, multi_prompt=False)
    parser.add_argument(
        "--top", type=cli.positive_int, metavar="K", help="how many layers to choose (default: model.top_k)"
    )
    parser.add_argument("--compare", action="store_true", help="also score choices of layers by mIoU; needs masks")
    return parser


if __name__ == "__main__":
    sys.exit(cli.run(main))
