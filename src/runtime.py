"""Where a command computes: which process of how many, on which device, with how much memory.

Importing this module does not import torch, which takes seconds: ``--help`` and errors in a configuration come at once.
"""

from __future__ import annotations

import datetime
import os
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from .errors import UserError

if TYPE_CHECKING:
    import torch
    from torch.distributed.distributed_c10d import Store

MAX_WORKING_BYTES = 6 << 30
"""Bytes beyond which a step on CUDA gains nothing by doing more at once."""

MAX_HALVINGS = 10  # after them a step of BLIP-large takes one prompt at a time

DEVICES = "auto, cpu, cuda, cuda:N or mps"

JOB = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
"""Environment variables that every process of a job has; a process that lacks one of them computes alone."""

LONGEST_WAIT = datetime.timedelta(days=7)
"""How long a finished process waits for the others."""

SAY_AFTER = 10.0
"""Seconds of waiting after which a process prints for whom it waits."""


def rank() -> int:
    """Number of this process among all processes of the job; 0 without a job."""
    return _of_job("RANK", 0)


def world_size() -> int:
    """Number of processes of the job, on all machines; 1 without a job."""
    return _of_job("WORLD_SIZE", 1)


def local_rank() -> int:
    """Number of this process among those of the job on this machine."""
    return _of_job("LOCAL_RANK", 0)


def local_world_size() -> int:
    """Number of processes of the job on this machine."""
    return _of_job("LOCAL_WORLD_SIZE", 1)


def _of_job(name: str, alone: int) -> int:
    value = os.environ.get(name, "")
    return int(value) if value.isdecimal() and all(os.environ.get(each) for each in JOB) else alone


def check_job() -> None:
    """Check the environment variables that say which process of a job this is; prints a note if some are missing.

    Raises:
        UserError: a variable is no number, or the numbers contradict each other.
    """
    given = [name for name in JOB[:2] if os.environ.get(name)]
    missing = [name for name in JOB if not os.environ.get(name)]
    if given and missing:
        names, others = " and ".join(given), ", ".join(missing)
        print(
            f"note: {names} is set, but not {others}: this process computes alone (torchrun sets all of them)",
            file=sys.stderr,
            flush=True,
        )
    if missing:
        return
    numbers = [*JOB[:2], JOB[3], *(name for name in ("LOCAL_RANK", "LOCAL_WORLD_SIZE") if name in os.environ)]
    for name in numbers:
        if not os.environ[name].isdecimal():
            raise UserError(f"environment variable {name}={os.environ[name]}: expected a whole number, 0 or more")
    for part, whole in ((rank(), "WORLD_SIZE"), (local_rank(), "LOCAL_WORLD_SIZE")):
        if whole in os.environ and part >= int(os.environ[whole]):
            name = "RANK" if whole == "WORLD_SIZE" else "LOCAL_RANK"
            raise UserError(f"environment variable {name}={part}: expected less than {whole}={os.environ[whole]}")


class Patience:
    """Prints once for whom this process waits, when it has waited for :data:`SAY_AFTER` seconds.

    Args:
        whom: names the others, such as ``process 1``; empty if nobody is missing any more.
    """

    def __init__(self, whom: Callable[[], str]) -> None:
        self._whom = whom
        self._end: float | None = time.monotonic() + SAY_AFTER

    def check(self) -> None:
        """Print if it is time; call this every now and then."""
        if self._end is not None and time.monotonic() >= self._end:
            self._end = None
            if whom := self._whom():
                print(f"process {rank()} waits for {whom}", file=sys.stderr, flush=True)


_store: Store | None = None


def job_store(wait: bool = True) -> Store | None:
    """The key-value store that the processes of a job share, at MASTER_ADDR:MASTER_PORT.

    torchrun hosts it, or else process 0. Signals are obeyed while this waits.

    Args:
        wait: wait until the store answers; if not, None where it does not answer at once or would have to be hosted.

    Raises:
        UserError: this process must host the store and cannot.
    """
    global _store
    if _store is not None:
        return _store
    from torch.distributed import TCPStore  # pyright: ignore[reportPrivateImportUsage]
    from torch.distributed.distributed_c10d import PrefixStore

    host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    hosts = _hosts_store()
    if hosts and not wait:
        return None
    patience = Patience(lambda: f"process 0 at {host}:{port}")
    while not hosts and not _answers(host, port):
        if not wait:
            return None
        patience.check()
        time.sleep(0.2)
    try:
        store = TCPStore(
            host, port, world_size(), hosts, timeout=LONGEST_WAIT, wait_for_workers=False, multi_tenant=True
        )
    except RuntimeError as error:
        if not wait:
            return None
        reason = " ".join(str(error).split())
        raise UserError(f"process {rank()} cannot use MASTER_ADDR:MASTER_PORT {host}:{port} ({reason})") from error
    # torchrun may keep the store when it restarts processes: those of the last attempt must not be found there
    _store = PrefixStore(f"attempt {os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)
    return _store


def _answers(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), timeout=5).close()
    except OSError:
        return False
    return True


ENDED_EARLY = "ended early"
"""Key of the job's store that counts the processes that have ended early."""

END_WAIT = 60.0
"""Seconds for which a process that ends before the job has met stays reachable, so that the others end too."""


def end_early(text: str, wait: bool = False) -> None:
    """Print ``text``, unless another process of the job has ended early before, and let the others know.

    Args:
        text: why the job ends.
        wait: processes that have not met yet cannot notice that this one is gone; wait until process 0 has opened the
            store or, in process 0, until the others have looked into it, :data:`END_WAIT` seconds at most.
    """
    if world_size() == 1:
        print(text, file=sys.stderr, flush=True)
        return
    met = _store is not None
    try:
        store = job_store(wait=False)
        if store is None or store.add(ENDED_EARLY, 1) == 1:
            print(text, file=sys.stderr, flush=True)
    except RuntimeError:  # whoever hosted the store has ended
        print(text, file=sys.stderr, flush=True)
        return
    if wait and not met:
        with suppress(RuntimeError, UserError):
            _stay_reachable(store, time.monotonic() + END_WAIT)


def _stay_reachable(store: Store | None, end: float) -> None:
    """Count this process as ended early if that is not done, and keep the store open for the others until ``end``."""
    if store is None:
        host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        while not _hosts_store() and not _answers(host, port):
            if time.monotonic() >= end:
                return
            time.sleep(0.2)
        store = job_store()
        assert store is not None
        store.add(ENDED_EARLY, 1)
    while _hosts_store() and store.add(ENDED_EARLY, 0) < world_size() and time.monotonic() < end:
        time.sleep(0.1)


def _hosts_store() -> bool:
    """Whether this process hosts the job's store: process 0, unless torchrun does."""
    return rank() == 0 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"


def cores() -> int:
    """CPU cores of this machine that all processes of a job on it share."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def share_cores() -> None:
    """Let this process use its share of the machine's cores; by default torchrun gives it one."""
    import torch

    if world_size() > 1:
        torch.set_num_threads(max(1, cores() // local_world_size()))


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Compute with ``count`` threads on the CPU, for operations whose rounding depends on the number of threads."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def check_device_name(name: str) -> str:
    """``name`` if it can be the name of a device; does not need torch.

    Raises:
        UserError: it cannot.
    """
    kind, _, number = name.partition(":")
    if name not in ("auto", "cpu", "mps") and (kind != "cuda" or (":" in name and not number.isdecimal())):
        raise UserError(f"--device {name}: expected {DEVICES}")
    return name


def choose_device(name: str) -> torch.device:
    """The device that ``--device`` names; on CUDA it becomes PyTorch's current device.

    Args:
        name: ``auto`` (CUDA where it works, else the CPU), ``cpu``, ``cuda``, ``cuda:N`` or ``mps``. ``auto`` and
            ``cuda`` are the process's own GPU under torchrun: cuda:LOCAL_RANK.

    Raises:
        UserError: another name, or a device that is not there or cannot be used; says why.
    """
    check_device_name(name)
    import torch

    if name == "auto":
        fault = _why_no_cuda()
        if fault and torch.cuda.is_available() and rank() == 0:
            print(f"computing on the CPU: {fault}", file=sys.stderr, flush=True)
        name = "cpu" if fault else "cuda"
    if name == "cpu":
        return torch.device("cpu")
    if name == "mps":
        if not torch.backends.mps.is_available():
            raise UserError("--device mps: PyTorch sees no Apple GPU here; use --device cpu, or auto")
        return torch.device("mps")
    number = name.partition(":")[2]
    if not torch.cuda.is_available():
        raise UserError(f"--device {name}: {_why_no_cuda()}; use --device cpu, or auto")
    index = int(number) if number else local_rank()
    if index >= torch.cuda.device_count():
        raise UserError(
            f"--device {name}: there are {torch.cuda.device_count()} CUDA devices, counted from 0, and this process "
            f"asks for number {index}"
        )
    fault = _why_no_cuda(index)
    if fault:
        raise UserError(f"--device {name}: {fault}; use --device cpu, or auto")
    torch.cuda.set_device(index)  # or libraries that ask for the current device would use GPU 0 too
    return torch.device("cuda", index)


def _why_no_cuda(index: int | None = None) -> str:
    """Why CUDA device ``index`` (default: the process's own) cannot be used; empty if it can."""
    import torch

    if torch.version.cuda is None and torch.version.hip is None:
        return (
            f"PyTorch {torch.__version__} here is built without CUDA (docs/install.md has the command for one with it)"
        )
    if not torch.cuda.is_available():
        built = f"PyTorch {torch.__version__} is built for CUDA {torch.version.cuda}"
        try:
            torch.cuda.init()
        except Exception as error:  # which kind depends on what is wrong with the driver
            reason = " ".join(str(error).split()).split(". ")[0].rstrip(".")
            return f"{built} and finds none: {reason} (docs/install.md has the commands for older drivers)"
        return f"{built} and finds none"
    index = min(local_rank(), torch.cuda.device_count() - 1) if index is None else index
    architectures = torch.cuda.get_arch_list()
    if torch.version.hip is not None or _runs_on(architectures, torch.cuda.get_device_capability(index)):
        return ""
    major, minor = torch.cuda.get_device_capability(index)
    return (
        f"{torch.cuda.get_device_name(index)} has compute capability {major}.{minor}, for which PyTorch "
        f"{torch.__version__} has no code, only for {', '.join(architectures)} (docs/install.md has the commands for "
        "other GPUs)"
    )


def _runs_on(architectures: list[str], capability: tuple[int, int]) -> bool:
    """Whether code for one of ``architectures`` runs on a GPU: ``sm_86`` on 8.6 to 8.9, ``compute_90`` from 9.0 on."""
    for architecture in architectures:
        kind, _, digits = architecture.rstrip("af").partition("_")
        built_for = int(digits[:-1]), int(digits[-1])
        if built_for <= capability and (kind == "compute" or built_for[0] == capability[0]):
            return True
    return False


def device_name(device: torch.device) -> str:
    """The device as result files name it: the GPU's own name, ``mps`` or ``cpu``."""
    import torch

    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


_halvings = 0  # of what a step may take at once; a process that was short of memory stays so


def working_memory(device: torch.device, most: int, least: int) -> int:
    """Bytes that a step of the work on ``device`` may take at once.

    On CUDA ``most``, halved until it fits into what is free, down to ``least``. In halves, so that the same job is cut
    into the same pieces from run to run: other pieces round differently. Elsewhere ``least``, which stays in the cache.
    """
    import torch

    if device.type != "cuda":
        return least >> _halvings
    # what PyTorch holds and does not use is free too
    free = torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    while most > max(free, least):
        most //= 2
    return max(most, least) >> _halvings


def halve_working_memory() -> bool:
    """Let a step of the work take half as much at once from now on: what it took did not suffice.

    Returns:
        False where that was done so often that it cannot help any more.
    """
    global _halvings
    if _halvings == MAX_HALVINGS:
        return False
    _halvings += 1
    return True


def working_memory_was_halved() -> bool:
    """Whether this process computes in smaller steps than usual, which rounds differently."""
    return _halvings > 0
