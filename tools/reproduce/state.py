"""The state of a reproduction: finished jobs and their settings, in a file next to the results.

A job is finished if its result still exists unchanged and was made with the same settings: everything that numbers
depend on, as in the journal of an unfinished run (:mod:`src.evaluation.identity`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from src.errors import reason_of
from src.evaluation.identity import digest, file_digest
from src.evaluation.journal import differences
from src.files import read_regular, require_regular, write_text
from src.output import reading
from src.runtime import rank
from src.screen import note

MAX_BYTES = 1 << 26  # of the state file
NAME = "reproduction.json"
SHOWN_DIFFERENCES = 3


@dataclass
class State:
    """The jobs of the file ``path``: for each name, settings, SHA-256 of the result (null: unfinished) and seconds."""

    path: Path
    jobs: dict[str, dict[str, Any]]

    @classmethod
    def read(cls, folder: Path) -> State:
        """Read the state in ``folder``; empty if it is missing or (with a note) unreadable."""
        path = folder / NAME
        try:
            values = json.loads(read_regular(path, MAX_BYTES).decode("utf-8"))
            jobs = values["jobs"]
            if not isinstance(jobs, dict) or not all(isinstance(job, dict) for job in jobs.values()):
                raise ValueError("its jobs are no mapping of names to mappings")
        except (FileNotFoundError, NotADirectoryError):
            return cls(path, {})
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            note(f"note: {path} cannot be used ({reason_of(error)}): what is finished is computed again")
            return cls(path, {})
        return cls(path, jobs)

    def why_not_finished(self, name: str, settings: Mapping[str, Any], result: Path) -> str | None:
        """The reason to compute job ``name``, in a few words; None if it is finished."""
        job = self.jobs.get(name)
        if job is None:
            return "to compute"
        if job.get("digest") != digest(settings):
            different = differences(job.get("settings") or {}, settings)
            more = len(different) - SHOWN_DIFFERENCES
            shown = "; ".join(different[:SHOWN_DIFFERENCES]) + (f"; and {more} more" if more > 0 else "")
            return f"to compute: {'finished' if job.get('result') else 'begun'} with other settings ({shown})"
        if not job.get("result"):
            return "started, resumes"
        try:
            require_regular(result, reading.MAX_BYTES)  # reading a named pipe would block
            unchanged = file_digest(result) == job["result"]
        except OSError:
            return "to compute: its result is gone"
        return None if unchanged else "to compute: its result is not the one that was written"

    def seconds(self, name: str, settings: Mapping[str, Any]) -> float:
        """Seconds of job ``name`` so far with these settings, over all commands."""
        job = self.jobs.get(name, {})
        seconds = job.get("seconds")
        return seconds if job.get("digest") == digest(settings) and isinstance(seconds, int | float) else 0.0

    def keep(self, name: str, settings: Mapping[str, Any], seconds: float, result: Path | None) -> None:
        """Record the seconds of job ``name`` and, if finished, its result; only process 0 writes."""
        if rank() > 0:
            return
        self.jobs[name] = {
            "digest": digest(settings),
            "result": file_digest(result),
            "seconds": seconds,
            "settings": settings,
        }
        write_text(self.path, json.dumps({"jobs": self.jobs}, indent=1, ensure_ascii=False) + "\n")
