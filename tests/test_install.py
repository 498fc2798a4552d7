"""The installed package: built as a wheel, beside a foreign package called src, used from another folder."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import sysconfig
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest

from src.files import REPOSITORY

FIVE_LINES = """
from segmentation_from_attention import Segmenter
words = {{"classes": "boat; bus", "background": "sky, sea"}}
segmenter = Segmenter.from_pretrained({model!r}, **words, device="cpu", layers=(0, 1), image_size=192, crf=0)
result = segmenter({photo!r})
print(result.labels.shape, sorted(result.shares), result.explorer("page.html"), *result.export(".", "coco", "yolo"))
import src; print(src.WHOSE)
"""


def run(*command: str | Path, cwd: Path) -> str:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run([*map(str, command)], cwd=cwd, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_packages_are_the_folders() -> None:
    """pyproject.toml lists every package, because setuptools does not find packages under another name."""
    setuptools = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]
    folders = {path.parent.relative_to(REPOSITORY / "src") for path in (REPOSITORY / "src").rglob("__init__.py")}
    names = {".".join(["segmentation_from_attention", *folder.parts]) for folder in folders}
    extra = {f"segmentation_from_attention.{name}" for name in ("classes", "replace_huggingface")}
    assert set(setuptools["packages"]) == names | extra


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    # from a copy: building writes files beside the sources
    run("git", "clone", "-q", REPOSITORY, folder / "clone", cwd=folder)
    for path in ("pyproject.toml", "src", "configs/classes", "replace_huggingface", "README.md"):
        run("cp", "-r", REPOSITORY / path, (folder / "clone" / path).parent, cwd=folder)
    run(sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", folder, folder / "clone", cwd=folder)
    (built,) = folder.glob("*.whl")
    return built


def test_the_package_contains_the_experiments_and_commands(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    roots = {name.split("/")[0] for name in names if ".dist-info" not in name}
    assert roots == {"segmentation_from_attention"}
    folders = {name.split("/")[1] for name in names if name.count("/") > 1 and ".dist-info" not in name}
    assert not folders & {"tools", "tests", "prepare", "miniature", "benchmark"}
    assert "segmentation_from_attention/explorer/web/page.html" in names
    assert "segmentation_from_attention/classes/pascal.json" in names


def test_five_lines_from_another_folder(wheel: Path, tmp_path: Path) -> None:
    venv.create(tmp_path / "venv", with_pip=False)
    python = tmp_path / "venv" / ("Scripts" if sys.platform == "win32" else "bin") / "python"
    site = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=tmp_path).strip())
    # torch and the other dependencies are those of the tests' environment
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    run(sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", site, wheel, cwd=tmp_path)
    (site / "src").mkdir()
    (site / "src" / "__init__.py").write_text("WHOSE = 'somebody else'\n")
    work = tmp_path / "work"
    work.mkdir()
    miniature = REPOSITORY / "data" / "miniature"
    program = FIVE_LINES.format(model=str(miniature / "blip"), photo=str(miniature / "JPEGImages" / "val_083.jpg"))
    said = run(python, "-c", program, cwd=work)
    assert "'boat', 'bus'" in said
    assert "somebody else" in said
    assert (work / "page.html").is_file()
    assert (work / "export_coco" / "instances.json").is_file()
    assert (work / "export_yolo" / "data.yaml").is_file()
    assert "usage: " in run(python, "-m", "segmentation_from_attention.photos", "--help", cwd=work)
    commands = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]["scripts"]
    for name, target in commands.items():
        module, function = re.fullmatch(r"([\w.]+):(\w+)", target).groups()  # type: ignore[union-attr]
        call = f"import sys; sys.argv = [{name!r}, '--help']; from {module} import {function}; {function}()"
        assert "usage: " in run(python, "-c", call, cwd=work)
