"""Every exception that Dogwatch raises on purpose, with its exit code.

    DogwatchError                 1   ran, but failed
    ├── UsageError                2   wrong usage
    ├── ConfigError               2   wrong configuration; carries every problem at once
    ├── PartlyDone                3   some hosts or steps failed
    ├── NotFound                 10
    ├── Conflict                 11   locked, or changed since the plan
    │   ├── StoreLocked          11
    │   └── StoreNewer           11   written by a newer Dogwatch; refused, never opened
    ├── NotAllowed               12
    ├── Unreachable              13   daemon, database or cluster cannot be reached
    ├── TransientError            1   worth another try, after `retry_after_s`
    └── PermanentError            1   the same call will fail again

A failed check is a result, not an exception. Lower libraries' errors are translated once, at the edge.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar


class DogwatchError(Exception):
    """Says what failed, on what and why in `str(error)`; `hint` says what to do next, or is empty."""

    exit_code: ClassVar[int] = 1
    code: ClassVar[str] = "failed"

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


class UsageError(DogwatchError):
    exit_code = 2
    code = "usage"


@dataclass(frozen=True, slots=True)
class Problem:
    """One mistake in a configuration.

    path: `probes[3].hots`, or "" for the whole file. file and line: where it was written ("" and 0 where it came
    from nowhere, line counts from 1). hint: "did you mean 'host'?", or "". restart: right, but only from a restart on.
    """

    message: str
    path: str = ""
    file: str = ""
    line: int = 0
    hint: str = ""
    restart: bool = False

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}: " if self.line else f"{self.file}: " if self.file else ""
        path = f"{self.path}: " if self.path else ""
        return f"{place}{path}{self.message}{f'; {self.hint}' if self.hint else ''}"


class ConfigError(DogwatchError):
    """The configuration has mistakes; `problems` lists all of them, in the order they are written."""

    exit_code = 2
    code = "config"

    def __init__(self, problems: Iterable[Problem], *, hint: str = "") -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(map(str, self.problems)), hint=hint)


class PartlyDone(DogwatchError):
    exit_code = 3
    code = "partly_done"


class NotFound(DogwatchError):
    exit_code = 10
    code = "not_found"


class Conflict(DogwatchError):
    exit_code = 11
    code = "conflict"


class StoreLocked(Conflict):
    code = "store_locked"


class StoreNewer(Conflict):
    code = "store_newer"


class NotAllowed(DogwatchError):
    exit_code = 12
    code = "not_allowed"


class Unreachable(DogwatchError):
    exit_code = 13
    code = "unreachable"


class TransientError(DogwatchError):
    """Worth another try. retry_after_s: what the other side asked for, or None."""

    code = "transient"

    def __init__(self, message: str, *, hint: str = "", retry_after_s: float | None = None) -> None:
        super().__init__(message, hint=hint)
        self.retry_after_s = retry_after_s


class PermanentError(DogwatchError):
    code = "permanent"


def reason_of(error: BaseException) -> str:
    """Return why something failed in the system's words, `permission denied: /srv/logs`, without numbers and places."""
    if not isinstance(error, OSError) or error.errno is None:
        return str(error) or ("no answer" if isinstance(error, TimeoutError) else type(error).__name__)
    if type(error).__module__ == "ssl":
        return re.sub(r"\[[^\]]*\] |\s*\(_ssl\.c:\d+\)", "", error.strerror or str(error))
    # Those of name look-ups are not the system's.
    words = os.strerror(error.errno) if error.errno > 0 else (error.strerror or str(error))
    # asyncio tells what it could not connect to, or all the addresses that it tried.
    return f"{words.lower()}: {error.filename}" if error.filename else words.lower()
