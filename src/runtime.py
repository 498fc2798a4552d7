"""The process (rank and number of processes), its device, and its working memory.

torch is imported only when needed, because that takes seconds.
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
"""Working memory of a step on CUDA; more is not faster."""

MAX_HALVINGS = 10  # after 10 halvings, a step of BLIP-large processes one prompt at a time

DEVICES = "auto, cpu, cuda, cuda:N or mps"

JOB = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
"""Environment variables of the processes of a job; a process without one of them computes alone."""

LONGEST_WAIT = datetime.timedelta(days=7)
"""Time for which a finished process waits for the others."""

SAY_AFTER = 10.0
"""Seconds after which a waiting process prints which processes it waits for."""


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
    """Check the environment variables of a job (:data:`JOB`); prints a note if some are missing.

    Raises:
        UserError: a variable is not a number, or a rank is too large.
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
    """Prints once, after :data:`SAY_AFTER` seconds, which processes this process waits for.

    ``whom`` returns the names of the missing processes, such as ``process 1``.
    """

    def __init__(self, whom: Callable[[], str]) -> None:
        self._whom = whom
        self._end: float | None = time.monotonic() + SAY_AFTER

    def check(self) -> None:
        """Print if the time has come; call this repeatedly."""
        if self._end is not None and time.monotonic() >= self._end:
            self._end = None
            if whom := self._whom():
                print(f"process {rank()} waits for {whom}", file=sys.stderr, flush=True)


_store: Store | None = None


def job_store(wait: bool = True) -> Store | None:
    """The key-value store that the processes of a job share, at MASTER_ADDR:MASTER_PORT.

    It is hosted by torchrun or, without torchrun, by process 0. Waiting reacts to signals.

    Args:
        wait: wait until the store answers; if false, return None if it does not answer immediately or this process
            would have to host it.

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
    # torchrun may keep the store when it restarts processes: keys of the last attempt must not be found
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
"""Seconds for which a process that ends before the first meeting stays reachable, so that the others end too."""


def end_early(text: str, wait: bool = False) -> None:
    """Print ``text``, unless another process of the job has ended early before, and notify the others.

    Before their first meeting, processes cannot notice that this one has ended; with ``wait``, wait until process 0 has
    opened the store or, in process 0, until the others have read it, at most :data:`END_WAIT` seconds.
    """
    if world_size() == 1:
        print(text, file=sys.stderr, flush=True)
        return
    met = _store is not None
    try:
        store = job_store(wait=False)
        if store is None or store.add(ENDED_EARLY, 1) == 1:
            print(text, file=sys.stderr, flush=True)
    except RuntimeError:  # the process that hosted the store has ended
        print(text, file=sys.stderr, flush=True)
        return
    if wait and not met:
        with suppress(RuntimeError, UserError):
            _stay_reachable(store, time.monotonic() + END_WAIT)


def _stay_reachable(store: Store | None, end: float) -> None:
    """Count this process as ended early, if not yet done, and keep the store open for the others until ``end``."""
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
    """Number of CPU cores that the job's processes on this machine share."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def share_cores() -> None:
    """Let this process use its share of the cores; torchrun's default is one thread."""
    import torch

    if world_size() > 1:
        torch.set_num_threads(max(1, cores() // local_world_size()))


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Context with ``count`` CPU threads, for operations whose rounding depends on the number of threads."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def check_device_name(name: str) -> str:
    """Return ``name`` if it is a valid device name, else raise UserError; does not need torch."""
    kind, _, number = name.partition(":")
    if name not in ("auto", "cpu", "mps") and (kind != "cuda" or (":" in name and not number.isdecimal())):
        raise UserError(f"--device {name}: expected {DEVICES}")
    return name


def choose_device(name: str) -> torch.device:
    """The device that ``--device`` names; a CUDA device becomes PyTorch's current device.

    Args:
        name: ``auto`` (CUDA if it works, otherwise the CPU), ``cpu``, ``cuda``, ``cuda:N`` or ``mps``. Under torchrun,
            ``auto`` and ``cuda`` are the process's own GPU, cuda:LOCAL_RANK.

    Raises:
        UserError: the name is invalid, or the device does not exist or cannot be used.
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
            raise UserError("--device mps: PyTorch finds no Apple GPU; use --device cpu, or auto")
        return torch.device("mps")
    number = name.partition(":")[2]
    if not torch.cuda.is_available():
        raise UserError(f"--device {name}: {_why_no_cuda()}; use --device cpu, or auto")
    index = int(number) if number else local_rank()
    if index >= torch.cuda.device_count():
        raise UserError(
            f"--device {name}: this process needs CUDA device {index}, but the machine has "
            f"{torch.cuda.device_count()}, counted from 0; choose another device or start fewer processes"
        )
    fault = _why_no_cuda(index)
    if fault:
        raise UserError(f"--device {name}: {fault}; use --device cpu, or auto")
    torch.cuda.set_device(index)  # otherwise libraries that use the current device would also use GPU 0
    return torch.device("cuda", index)


def _why_no_cuda(index: int | None = None) -> str:
    """Why CUDA device ``index`` (default: the process's own) cannot be used; empty if it can."""
    import torch

    if torch.version.cuda is None and torch.version.hip is None:
        return (
            f"PyTorch {torch.__version__} is built without CUDA (docs/install.md has the command for a build with CUDA)"
        )
    if not torch.cuda.is_available():
        built = f"PyTorch {torch.__version__} is built for CUDA {torch.version.cuda}"
        try:
            torch.cuda.init()
        except Exception as error:  # its type depends on the fault of the driver
            reason = " ".join(str(error).split()).split(". ")[0].rstrip(".")
            return f"{built} but finds no GPU: {reason} (docs/install.md has the commands for older drivers)"
        return f"{built} but finds no GPU"
    index = min(local_rank(), torch.cuda.device_count() - 1) if index is None else index
    architectures = torch.cuda.get_arch_list()
    if torch.version.hip is not None or _runs_on(architectures, torch.cuda.get_device_capability(index)):
        return ""
    major, minor = torch.cuda.get_device_capability(index)
    return (
        f"{torch.cuda.get_device_name(index)} has compute capability {major}.{minor}, but PyTorch {torch.__version__} "
        f"supports only {', '.join(architectures)} (docs/install.md has the commands for other GPUs)"
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
    """The device's name in result files: the GPU's product name, ``mps`` or ``cpu``."""
    import torch

    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


_halvings = 0  # of the working memory, for the rest of the process
_reduced = False  # whether too little memory of a GPU was free for the usual working memory


def working_memory(device: torch.device, most: int, least: int) -> int:
    """Bytes of working memory for a step on ``device``.

    On CUDA ``most``, halved until it fits into the free memory, but at least ``least``: powers of two, so that the same
    job is divided, and rounds, in the same way in every run (unless :func:`working_memory_was_reduced`). On other
    devices ``least``, which fits in the cache.
    """
    global _reduced
    import torch

    if device.type != "cuda":
        return least >> _halvings
    # memory that PyTorch has reserved but does not use is also free
    free = torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    while most > max(free, least):
        most //= 2
        _reduced = True
    return max(most, least) >> _halvings


def halve_working_memory() -> bool:
    """Halve the working memory of all later steps; returns False after :data:`MAX_HALVINGS` halvings."""
    global _halvings
    if _halvings == MAX_HALVINGS:
        return False
    _halvings += 1
    return True


def working_memory_was_reduced() -> bool:
    """Whether a step had less than the usual working memory: smaller steps round differently.

    Memory ran out, or other processes or kept embeddings left too little of a GPU's memory free.
    """
    return _reduced or _halvings > 0
