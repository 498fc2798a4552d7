"""The notebook docs/tour.ipynb: its cells run in order, in the folder where Jupyter starts them."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from src.files import REPOSITORY
from tests.documents import exists

NOTEBOOK = REPOSITORY / "docs" / "tour.ipynb"
CELLS = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
TEXT = "".join("".join(cell["source"]) + "\n" for cell in CELLS if cell["cell_type"] == "markdown")
CODE = ["".join(cell["source"]) for cell in CELLS if cell["cell_type"] == "code"]

# as IPython does, show the value of a cell's last line
RUN = """
import ast, json, sys
cells = {}
for number, code in enumerate(json.loads(sys.stdin.read())):
    tree = ast.parse("\\n".join("" if line.startswith("%") else line for line in code.splitlines()), f"cell {number}")
    last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, f"cell {number}", "exec"), cells)
    if last is not None:
        value = eval(compile(ast.Expression(last.value), f"cell {number}", "eval"), cells)
        if hasattr(value, "savefig") or hasattr(value, "save"):
            (value.savefig if hasattr(value, "savefig") else value.save)(f"{sys.argv[1]}/{number}.png")
"""


def test_the_cells_run_and_show_their_figures(tmp_path: Path) -> None:
    environment = {**os.environ, "MPLBACKEND": "agg", "TMPDIR": str(tmp_path), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", RUN, str(tmp_path)],
        cwd=NOTEBOOK.parent,
        env=environment,
        input=json.dumps(CODE),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    figures = {int(path.stem): path for path in tmp_path.glob("*.png")}
    assert len(figures) == 7  # picture, overlay, other words, layers, InfoScore, one-shot, tuned
    for path in figures.values():
        with Image.open(path) as figure:
            assert len(figure.convert("RGB").getcolors(1 << 24)) > 50
    assert "'person': 0.06, 'horse': 0.1}" in done.stdout
    assert "--set 'model.layers=[0, 1]' segments with the best 2 layers" in done.stdout


def test_the_notebook_is_small_and_has_no_outputs() -> None:
    assert NOTEBOOK.stat().st_size < 300_000
    assert all(not cell["outputs"] and cell["execution_count"] is None for cell in CELLS if "outputs" in cell)


@pytest.mark.parametrize("link", re.findall(r"\]\(([^)]+)\)", TEXT))
def test_links_have_targets(link: str) -> None:
    path, _, anchor = link.partition("#")
    assert exists("docs/tour.ipynb", path, anchor)
