"""Rank the layers of BLIP's text encoder by InfoScore, without labels.

    python compute_infoscore_blip.py --config configs/pascal_blip.yaml
    python compute_infoscore_blip.py --config configs/coco_blip.yaml --limit 500 --top 3
    python compute_infoscore_blip.py --config configs/pascal_blip.yaml --set val_list=my_photos/
    python compute_infoscore_blip.py --config configs/pascal_blip.yaml --compare

The single-prompt set is used, as in the paper. val_list may be a list with or without masks, or a folder of images.
--compare (needs masks) compares InfoScore with the mIoU of every single layer, of the top layers together, of all
layers and of the last layer.

Results: output.infoscore_csv (one row per layer), a JSON and a chart next to it; with --compare also a scatter plot.
"""

from __future__ import annotations

import sys

from src import cli
from src.files import check_writable
from src.result_files import csv_text, write_json, write_result
from src.screen import counted, say, say_next
from src.task import Task


def main(arguments: list[str]) -> int:
    """Run the experiment that ``arguments`` describe."""
    parser = cli.experiment_parser("compute_infoscore_blip.py", __doc__, multi_prompt=False)
    top_help = "number of layers to choose (default: model.top_k)"
    parser.add_argument("--top", type=cli.positive_int, metavar="K", help=top_help)
    parser.add_argument("--compare", action="store_true", help="also score choices of layers by mIoU; needs masks")
    cli.explorer_argument(parser, "the table and its charts as a page")
    args = parser.parse_args(arguments)
    args.set += [f"model.top_k={args.top}"] if args.top else []
    task = Task.read(args, cli.load(args), masks=args.compare)
    csv = task.outputs.infoscore_csv(task.config)
    check_writable(*task.outputs.files_of("infoscore", task.config))

    # torch is imported here, so that errors in the command are reported immediately
    with cli.quick_imports():
        from src.evaluation.provenance import provenance
        from src.explorer.infoscore_page import write_infoscore_page
        from src.layer_selection.choice import keep_scores, score_layers
        from src.layer_selection.comparison import compare_layers
        from src.layer_selection.infoscore import COLUMNS
        from src.loading import load_segmenter, open_journal
        from src.output import charts

    task = task.for_device()
    config, names, entries = task.config, task.prompts.scored_names, task.entries
    cache = task.outputs.path(config.output.csv).parent  # the other commands look for a ranking here
    segmenter = load_segmenter(task, cache, every_layer=True)
    with open_journal("comparison of layers", task, csv, segmenter, top_k=config.model.top_k) as journal:
        comparison = compare_layers(segmenter, entries, config, config.model.top_k, journal) if args.compare else None
        if comparison:
            keep_scores(comparison.scores, segmenter, entries, config, cache)
            scores = comparison.scores
        else:
            scores = score_layers(segmenter, entries, config, cache, args.fresh, args.skip_unreadable)

        top, images = scores.top(config.model.top_k), len(entries) - len(scores.skipped)
        say(scores.table() + (f"\n{comparison.table(names)}" if comparison else ""))
        write_result(csv, csv_text(COLUMNS, scores.rows()))
        compared = {"comparison": comparison.to_dict(names)} if comparison else {}
        origin = {"experiment": "infoscore", "images": images, **provenance(config, segmenter, layers=top)}
        write_json(csv.with_suffix(".json"), {**scores.to_dict(), **compared, **origin})
        chart = csv.with_suffix(f".{args.figures}")
        charts.infoscore_bars(chart, scores.infoscore.tolist(), top)
        say(f"wrote {csv}, {csv.with_suffix('.json').name} and {chart.name}")
        if comparison:
            scatter = csv.with_name(f"{csv.stem}_against_miou.{args.figures}")
            infoscore, miou = scores.infoscore.tolist(), comparison.single_layer_miou
            charts.infoscore_scatter(scatter, infoscore, miou, top, comparison.rho)
            say(f"wrote {scatter}")
        if args.save_explorer:
            about = f"{segmenter.model.name}, {counted(images, 'image')}, {counted(len(segmenter.prompts), 'prompt')}"
            write_infoscore_page(csv.with_suffix(".html"), scores, top, comparison, csv.stem, about)
            say(f"wrote {csv.with_suffix('.html')}")
    picture = csv.with_suffix(".html") if args.save_explorer else chart
    args.set = [setting for setting in args.set if not setting.startswith("model.layers=")]
    best = cli.again("training_free_blip.py", args, "--set", f"model.layers={top}")
    say_next(f"open {picture}", f"{best} segments with the best {counted(len(top), 'layer')}")
    return cli.end(scores.skipped)


if __name__ == "__main__":
    sys.exit(cli.run(main))
