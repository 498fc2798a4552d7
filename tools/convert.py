"""Convert an ALBEF checkpoint to a folder that loads quickly and without pickle.

    python -m tools.convert albef mscoco.pth models/albef-coco
    python -m tools.convert albef ALBEF.pth models/albef --tokenizer Salesforce/blip-itm-large-coco

The folder has HuggingFace's format: config.json, model.safetensors (the used weights in float32) and the tokenizer's
files. Set model.name to its path. Results are exactly those of the checkpoint. transformers cannot load the folder,
because it has no ALBEF.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import tempfile
from pathlib import Path

from src import cli
from src.errors import UserError
from src.files import check_writable, require_new_or_empty, user_path
from src.screen import say, say_next


def main(arguments: list[str]) -> int:
    """Run the conversion of ``arguments``."""
    args = _parser().parse_args(arguments)
    folder: Path = args.folder
    require_new_or_empty(folder, "model folder")
    check_writable(folder.parent / "model")

    with cli.quick_imports():
        import torch
        from safetensors.torch import save_file

        from src.method.albef import MODEL_TYPE, load_albef
    heads = tuple(args.heads) if args.heads else None
    model = load_albef(args.checkpoint, str(args.checkpoint), torch.device("cpu"), True, args.tokenizer, heads)
    config = {"model_type": MODEL_TYPE, "architectures": ["AlbefForImageTextRetrieval"], **model.architecture}
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name[:40]}.") as scratch:
            written = Path(scratch, "model")
            written.mkdir()
            (written / "config.json").write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")
            save_file(dict(model.state_dict()), written / "model.safetensors", metadata={"format": "pt"})
            model.tokenizer.save_pretrained(written)
            written.replace(folder)  # an empty folder is replaced
    except OSError as error:
        raise UserError(f"cannot write {folder}: {error.strerror or error}") from error
    say(f"wrote {folder}: cross-attention in text layers {model.layers[0]} to {model.layers[-1]}")
    command = ["python", "training_free_blip.py", "--config", "configs/pascal_albef.yaml"]
    say_next(shlex.join([*command, "--set", f"model.name={folder}"]))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tools.convert", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("kind", choices=["albef"], help="what the checkpoint is")
    parser.add_argument("checkpoint", type=user_path, metavar="FILE", help="pretraining or retrieval checkpoint")
    parser.add_argument("folder", type=user_path, metavar="FOLDER", help="folder to write; it must be new or empty")
    parser.add_argument(
        "--tokenizer",
        metavar="NAME",
        help="folder or hub name of bert-base-uncased's vocabulary (default: google-bert/bert-base-uncased)",
    )
    parser.add_argument(
        "--heads",
        type=cli.positive_int,
        nargs=2,
        metavar=("VISION", "TEXT"),
        help="attention heads of the encoders (default: width / 64, as published)",
    )
    return parser


if __name__ == "__main__":
    sys.exit(cli.run(main))
