"""Real processes of one job that wait for each other or end early: what they print, and that signals end them."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import textwrap
import time

import pytest
import torch.distributed as dist

from src.errors import UserError
from src.evaluation import processes
from src.files import REPOSITORY
from src.runtime import JOB

pytestmark = pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="gloo on one machine: Linux")

JOB_SCRIPT = textwrap.dedent("""
    import sys, time
    from src import cli, runtime
    from src.errors import UserError
    runtime.SAY_AFTER = 0.5

    def main(arguments):
        from src.evaluation import processes
        what = arguments[0]
        if f"process {runtime.rank()} is late" in what:
            time.sleep(5)
        if "refuse before meeting" in what and runtime.rank() == 1 or f"process {runtime.rank()} refuses" in what:
            raise UserError("image a.jpg is missing")
        processes.wait_for_all()
        if what == "refuse" and runtime.rank() == 1:
            raise UserError("image a.jpg is missing")
        if what == "be killed" and runtime.rank() == 1:
            import os
            os.kill(os.getpid(), 9)
        if what == "be late" and runtime.rank() == 1:
            print("late", file=sys.stderr, flush=True)
            time.sleep(600)
        if what == "refuse together":
            processes.share(refuse)
        processes.gather(runtime.rank())
        print("process", runtime.rank(), "is done", flush=True)

    def refuse():
        raise UserError("image a.jpg is missing")

    sys.exit(cli.run(main, sys.argv[1:]))
""")
ENVIRONMENT = {name: value for name, value in os.environ.items() if name not in JOB}


def free_port() -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return str(free.getsockname()[1])


def start(what: str, rank: int, port: str) -> subprocess.Popen[str]:
    """One of two processes of a job without torchrun."""
    job = {"RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    command = [sys.executable, "-c", JOB_SCRIPT, what]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, cwd=REPOSITORY, env=ENVIRONMENT | job, stdout=pipe, stderr=pipe, text=True)


def both(what: str) -> tuple[list[int], str]:
    port = free_port()
    jobs = [start(what, rank, port) for rank in (0, 1)]
    said = [job.communicate(timeout=120) for job in jobs]
    return [job.returncode for job in jobs], "".join(out + error for out, error in said)


def without_waiting(said: str) -> list[str]:
    """The lines of ``said`` without notes about a process that is slow to start."""
    return [line for line in said.splitlines() if "waits for" not in line]


def test_two_processes_connect_without_torchrun() -> None:
    codes, said = both("nothing")
    assert codes == [0, 0], said
    assert sorted(without_waiting(said)) == ["process 0 is done", "process 1 is done"]


@pytest.mark.parametrize(
    "what",
    [
        "refuse",
        "process 1 refuses, process 0 is late",
        "process 0 refuses, process 1 is late",
        "process 1 refuses, process 1 is late",
    ],
)
def test_an_error_in_one_process_is_printed_once(what: str) -> None:
    codes, said = both(what)
    assert codes == [2, 2], said
    assert without_waiting(said) == ["error: image a.jpg is missing"]


@pytest.mark.parametrize("what", ["refuse", "refuse before meeting", "refuse together"])
def test_under_torchrun_the_error_is_printed_once(what: str) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_port", free_port()]
    command += ["--no-python", sys.executable, "-c", JOB_SCRIPT, what]
    done = subprocess.run(command, cwd=REPOSITORY, env=ENVIRONMENT, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert done.stderr.count("error: image a.jpg is missing") == 1, done.stderr
    assert "lost contact" not in done.stderr
    assert "terminated" not in done.stderr


def test_a_killed_process_is_reported() -> None:
    codes, said = both("be killed")
    assert codes == [2, -signal.SIGKILL], said
    assert "error: process 0 (number 0 on its machine) lost contact with the other processes" in said


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize(("rank", "whom"), [(0, "process 1"), (1, "process 0 at 127.0.0.1:")])
def test_a_process_that_waits_for_the_start_prints_a_note_and_obeys_signals(
    number: signal.Signals, rank: int, whom: str
) -> None:
    with start("nothing", rank, free_port()) as process:
        assert process.stderr is not None
        assert process.stderr.readline().startswith(f"process {rank} waits for {whom}")
        process.send_signal(number)
        assert process.wait(timeout=60) == {signal.SIGTERM: 143, signal.SIGINT: 130}[number]


def test_a_finished_process_that_waits_prints_a_note_and_obeys_signals() -> None:
    port = free_port()
    with start("be late", 1, port) as late, start("be late", 0, port) as finished:
        assert late.stderr is not None
        assert finished.stderr is not None
        while "late" not in late.stderr.readline():
            time.sleep(0.1)
        while "process 0 waits for process 1" not in (line := finished.stderr.readline()):
            assert line
        finished.send_signal(signal.SIGTERM)
        assert finished.wait(timeout=60) == 143
        assert finished.stderr.read().splitlines() == ["terminated"]
        late.kill()


def test_a_store_that_has_ended_is_one_line() -> None:
    """As after torchrun was killed."""

    class Ended:
        def add(self, *_: object) -> int:
            raise dist.DistNetworkError("Failed to recv, got 0 bytes. Connection was likely closed.")

    counter = processes.Counter()
    counter._store = Ended()  # pyright: ignore[reportAttributeAccessIssue]
    with pytest.raises(UserError, match="lost contact with the other processes: one of them or torchrun has ended"):
        counter.add(1)
