"""Real processes that are killed, terminated, or share one job: results equal those of one undisturbed process.

The commands run as users run them, with a pause before every batch, so that they can be killed in time.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from src.files import REPOSITORY
from src.result_files import VOLATILE
from tests import tiny

ConfigFile = Callable[..., Path]

SLOWLY = textwrap.dedent("""
    import os, sys, time
    from pathlib import Path
    script, pause = sys.argv[1], float(sys.argv[2])
    sys.argv = sys.argv[2:]
    import importlib
    from src import cli
    from src.evaluation import journal
    from src.method.segmenter import Segmenter
    journal.FLUSH_SECONDS = 0.0
    attend = Segmenter.attend
    dying = Path(sys.argv[-1]) if sys.argv[-1].endswith(".once") else None

    def slowly(self, *arguments, **options):
        time.sleep(pause)
        if dying and os.environ.get("RANK") == "1" and not dying.exists():
            slowly.batches += 1
            if slowly.batches == 3:
                dying.touch()
                os.kill(os.getpid(), 9)
        return attend(self, *arguments, **options)

    slowly.batches = 0
    Segmenter.attend = slowly
    arguments = sys.argv[1:-1] if dying else sys.argv[1:]
    sys.exit(cli.run(importlib.import_module(script).main, arguments))
""")
SIZES = [(40 + 3 * number, 50) for number in range(9)]
ONE_SHOT = {"total_runs": 2, "num_iterations": 1, "min_support_area": 50, "support_only_one_novel": False}


@pytest.fixture
def config(config_file: ConfigFile, data_root: Path) -> Path:
    tiny.make_data(data_root, SIZES)
    return config_file(
        dataloader={"batch_size": 2},
        oneshot={"test_list": str(data_root / "val.txt"), **ONE_SHOT},
        crf={"iters": 1},
        # on heads as small as this model's (8 wide), PyTorch's fused kernel rounds by the number of threads
        runtime={"attention": "exact"},
    )


def command(script: str, config: Path, output: Path, *options: object, pause: float = 0.0) -> list[str]:
    start = [sys.executable, "-c", SLOWLY, script, str(pause)]
    return [*start, "--config", str(config), "--device", "cpu", "--output-dir", str(output), *map(str, options)]


# the default number of threads: the setting of conftest.py is for the test process
ENVIRONMENT = {key: value for key, value in os.environ.items() if key != "OMP_NUM_THREADS"}


def run(arguments: Sequence[str]) -> subprocess.CompletedProcess:
    return subprocess.run(
        arguments, cwd=REPOSITORY, env=ENVIRONMENT, capture_output=True, text=True, check=False, timeout=300
    )


def run_until(arguments: Sequence[str], happened: Callable[[subprocess.Popen], bool], number: int) -> tuple[int, str]:
    """Start a command, send it signal ``number`` once something has ``happened``; exit code and standard error."""
    pipes = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen(arguments, cwd=REPOSITORY, env=ENVIRONMENT, **pipes)
    deadline = time.monotonic() + 240
    while not happened(process):
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(number)
    error = process.communicate(timeout=60)[1]
    return process.returncode, error


def records(output: Path) -> int:
    """Bytes of all journals."""
    return sum(path.stat().st_size for path in output.glob("unfinished/*/*.records"))


def contents(output: Path) -> dict[str, Any]:
    """All files of a folder but for dates and seconds."""
    found: dict[str, Any] = {}
    for path in sorted(output.rglob("*")):
        if path.suffix == ".json":
            found[path.name] = lasting(json.loads(path.read_text()))
        elif path.is_file():
            found[str(path.relative_to(output))] = path.read_bytes()
    return found


def lasting(values: Any) -> Any:
    if isinstance(values, dict):
        return {key: lasting(value) for key, value in values.items() if key not in (*VOLATILE, "command")}
    return [lasting(value) for value in values] if isinstance(values, list) else values


SCRIPTS = {
    "training-free": (
        "training_free_blip",
        "--per-image",
        "--save-predictions",
        "--save-overlays",
        3,
        "--set",
        "model.layers=auto",
    ),
    "comparison": ("compute_infoscore_blip", "--compare"),
    "one-shot": ("one_shot_blip",),
}


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
@pytest.mark.parametrize("name", SCRIPTS)
def test_a_killed_run_resumes_with_the_same_bytes(name: str, number: int, config: Path, tmp_path: Path) -> None:
    script, *options = SCRIPTS[name]
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    slow = command(script, config, killed, *options, pause=0.3)
    code, error = run_until(slow, lambda _: records(killed) > 0, number)
    if number == signal.SIGTERM:
        assert code == 143
        last = error.rpartition("\r")[2].strip().splitlines()[-1]
        assert last.startswith("terminated; ")
        assert "the same command resumes" in last
        assert "Traceback" not in error
    again = run(command(script, config, killed, *options))
    assert again.returncode == 0, again.stderr
    assert "resuming: " in again.stdout
    assert run(command(script, config, whole, *options)).returncode == 0
    assert contents(killed) == contents(whole)  # and no journal, no temporary file


def test_a_finished_one_shot_run_is_not_recomputed(config: Path, tmp_path: Path) -> None:
    """With batches of single images: the composition of larger batches depends on the number of runs."""
    options = ("--set", "dataloader.batch_size=1")
    assert run(command("one_shot_blip", config, tmp_path / "grown", *options, "oneshot.total_runs=1")).returncode == 0
    first = tmp_path / "grown" / "one_shot_summary_run0.json"
    kept = first.stat().st_mtime_ns
    again = run(command("one_shot_blip", config, tmp_path / "grown", *options))
    assert again.returncode == 0, again.stderr
    assert "run 0 (of 2): finished before" in again.stdout
    assert again.stdout.count("tuned weights: ") == 2
    assert "run 0 (of 2): tuning" not in again.stderr
    assert "run 1 (of 2): tuning" in again.stderr
    assert first.stat().st_mtime_ns == kept
    assert run(command("one_shot_blip", config, tmp_path / "whole", *options)).returncode == 0
    grown, whole = contents(tmp_path / "grown"), contents(tmp_path / "whole")
    assert {name: grown[name] for name in whole} == whole  # beside them the results of one run
    fresh = run(command("one_shot_blip", config, tmp_path / "grown", *options, "--fresh"))
    assert "finished before" not in fresh.stdout
    grown = contents(tmp_path / "grown")
    assert {name: grown[name] for name in whole} == whole


def test_an_edited_record_of_a_run_is_ignored(config: Path, tmp_path: Path) -> None:
    options = ("--set", "dataloader.batch_size=1", "oneshot.total_runs=1")
    assert run(command("one_shot_blip", config, tmp_path, *options)).returncode == 0
    summary, record = tmp_path / "one_shot_summary.csv", tmp_path / "one_shot_summary_run0.json"
    scores, written = summary.read_text(), json.loads(record.read_text())
    record.write_text(json.dumps({**written, "miou": 0.999}))
    again = run(command("one_shot_blip", config, tmp_path, *options))
    assert again.returncode == 0, again.stderr
    assert again.stderr.count("was edited after it was written; computing this run again") == 1
    assert summary.read_text() == scores


def test_a_tuned_run_is_not_tuned_again(config: Path, tmp_path: Path) -> None:
    slow = command("one_shot_blip", config, tmp_path / "killed", pause=0.1)
    tuned = "unfinished/one_shot_summary_*/tuned_weights_0.safetensors"
    run_until(slow, lambda _: any((tmp_path / "killed").glob(tuned)), signal.SIGKILL)
    assert not any((tmp_path / "killed").glob("unfinished/*/*_1.safetensors"))
    again = run(command("one_shot_blip", config, tmp_path / "killed"))
    assert again.returncode == 0, again.stderr
    assert "run 0 (of 2): tuning" not in again.stderr
    assert "run 1 (of 2): tuning" in again.stderr
    assert run(command("one_shot_blip", config, tmp_path / "whole")).returncode == 0
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="looks at what the process has loaded")
def test_ctrl_c_during_the_start_is_one_line(config: Path, tmp_path: Path) -> None:
    arguments = [sys.executable, str(REPOSITORY / "training_free_blip.py"), "--config", str(config)]

    def imports_torch(process: subprocess.Popen) -> bool:
        return "libtorch" in Path(f"/proc/{process.pid}/maps").read_text()

    code, error = run_until([*arguments, "--output-dir", str(tmp_path)], imports_torch, signal.SIGINT)
    assert code == 130
    assert error.splitlines()[-1].startswith("interrupted")
    assert "Traceback" not in error


def torchrun(processes: int, arguments: Sequence[str], *options: object) -> list[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    start = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", str(processes)]
    start += ["--master_port", str(port), *map(str, options), "--no-python"]
    return [*start, *arguments]


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="gloo on one machine: Linux")
@pytest.mark.parametrize("name", SCRIPTS)
def test_two_processes_give_the_bytes_of_one(name: str, config: Path, tmp_path: Path) -> None:
    script, *options = SCRIPTS[name]
    two = run(torchrun(2, command(script, config, tmp_path / "two", *options)))
    assert two.returncode == 0, two.stderr
    assert two.stdout.count("wrote ") == run(command(script, config, tmp_path / "one", *options)).stdout.count("wrote ")
    assert contents(tmp_path / "two") == contents(tmp_path / "one")


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="gloo on one machine: Linux")
def test_torchrun_resumes_after_a_process_was_killed(config: Path, tmp_path: Path) -> None:
    dying = command("training_free_blip", config, tmp_path / "two", tmp_path / "died.once", pause=0.1)
    two = run(torchrun(2, dying, "--max-restarts", 1))
    assert two.returncode == 0, two.stderr
    assert (tmp_path / "died.once").exists()
    assert "resuming: " in two.stdout
    assert run(command("training_free_blip", config, tmp_path / "one")).returncode == 0
    assert contents(tmp_path / "two") == contents(tmp_path / "one")
