"""What to run and how it ended, and the words for why it could not be started."""

from __future__ import annotations

import errno
import os
import pwd
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

import msgspec

from dogwatch.errors import DogwatchError, PermanentError, TransientError

# Called with "stdout" or "stderr" and what was read. While what it returns is awaited, nothing more is read of that
# stream: the program waits, and no memory fills.
Output = Callable[[str, bytes], Awaitable[None] | None]

# What a program gets of the daemon's own environment. Never more: the rest may hold secrets.
_INHERITED = ("PATH", "HOME", "LANG", "LANGUAGE", "TZ", "USER", "LOGNAME", "SHELL", "TMPDIR")
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
ANSWER_BYTES = 256 * 1024
_OUT_OF = (errno.EAGAIN, errno.ENOMEM, errno.ENFILE, errno.EMFILE)


class Command(msgspec.Struct, frozen=True, kw_only=True):
    """A program and how it runs.

    env: added to a clean environment. cwd: "" for the daemon's own. stdin: None for /dev/null; it is a file, not a
    pipe. user: name or number, "" for the daemon's own; another one needs root. memory_bytes: of its address space.
    open_files: descriptors at the same time. grace_s: from SIGTERM to SIGKILL when it is cancelled. answer: a variable
    of its environment that names an empty file; what the program writes there is part of its exit status.
    """

    args: Sequence[str]
    env: Mapping[str, str] = {}
    cwd: str = ""
    stdin: bytes | None = None
    user: str = ""
    umask: int | None = None
    nice: int = 0
    memory_bytes: int | None = None
    open_files: int | None = None
    grace_s: float = 5.0
    answer: str = ""


class ExitStatus(msgspec.Struct, frozen=True, kw_only=True):
    """How a program ended. code: as a shell shows it, 128 + n after signal n. signal: 0 where it ended by itself.

    cpu_s: of all its processes. max_rss_bytes: of the largest one; never below the guard's own, some 10 MiB.
    answer: what it wrote to the command's answer file, at most ANSWER_BYTES + 1.
    """

    code: int
    signal: int = 0
    cpu_s: float = 0.0
    max_rss_bytes: int = 0
    answer: bytes = b""


class User(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    home: str
    shell: str
    uid: int
    gid: int
    groups: tuple[int, ...]


def find_user(name: str) -> User:
    """Look a user up, with that user's groups and no others. May ask a directory server: not for the event loop.

    Raises: PermanentError.
    """
    try:
        entry = pwd.getpwuid(int(name)) if name.isdigit() else pwd.getpwnam(name)
    except KeyError:
        raise PermanentError(f"there is no user '{name}'") from None
    if os.geteuid() not in (0, entry.pw_uid):
        raise PermanentError(f"cannot run as user '{name}': only root may", hint="run the worker as root")
    return User(
        name=entry.pw_name,
        home=entry.pw_dir,
        shell=entry.pw_shell,
        uid=entry.pw_uid,
        gid=entry.pw_gid,
        groups=tuple(os.getgrouplist(entry.pw_name, entry.pw_gid)),
    )


def clean_environment(daemon: Mapping[str, str], user: User | None) -> dict[str, str]:
    """Return what every program gets: who and where it is, its language and time zone, and nothing else."""
    kept = {name: daemon[name] for name in _INHERITED if name in daemon}
    kept |= {name: text for name, text in daemon.items() if name.startswith("LC_")}
    kept.setdefault("PATH", _PATH)
    if user is not None:
        kept |= {"HOME": user.home, "USER": user.name, "LOGNAME": user.name, "SHELL": user.shell}
        kept.pop("TMPDIR", None)  # the daemon's own need not be writable for it
    return kept


def describe(command: Command, user: User | None, marks: Mapping[str, str]) -> dict[str, object]:
    """Return the command as a shepherd reads it. marks: what no command's own environment overrides.

    Raises: PermanentError for what no program can be given.
    """
    env = {**clean_environment(os.environ, user), **command.env, **marks}
    program = command.args[0] if command.args else ""
    texts = [*command.args, command.cwd, *env.values()]
    if not program or any("\0" in one for one in texts) or any(set("=\0") & set(one) or not one for one in env):
        raise PermanentError(f"cannot run '{program}': an empty program name, a NUL character or a bad variable name")
    folders = [program] if "/" in program else [f"{at or '.'}/{program}" for at in env["PATH"].split(":")]
    return {
        "args": [os.fsencode(one) for one in command.args],
        "paths": [os.fsencode(one) for one in folders],
        "env": {os.fsencode(key): os.fsencode(text) for key, text in env.items()},
        "cwd": os.fsencode(command.cwd or _here()),
        "identity": (user.uid, user.gid, user.groups) if user is not None and os.geteuid() == 0 else None,
        "umask": command.umask,
        "nice": command.nice,
        "memory": command.memory_bytes,
        "open_files": command.open_files,
        "grace_s": command.grace_s,
    }


def _here() -> str:
    try:
        return os.getcwd()  # noqa: PTH109
    except FileNotFoundError:
        return "/"


def start_failure(command: Command, where: str, number: int) -> DogwatchError:
    """Return the error for a program that could not be started: what, why, and what to do."""
    program = command.args[0]
    why = os.strerror(number).lower()
    if number in _OUT_OF and where != "limits":
        return TransientError(f"cannot run {program}: {why}")
    if where == "cwd":
        return PermanentError(f"cannot run {program} in {command.cwd}: {why}")
    if where == "user":
        return PermanentError(f"cannot run {program} as user '{command.user}': {why}")
    if where == "limits":
        return PermanentError(f"cannot run {program}: a limit was refused: {why}", hint="raising limits needs root")
    if where == "interpreter":
        return PermanentError(f"cannot run {program}: the interpreter of its first line (#!) does not exist")
    return PermanentError(f"cannot run {program}: {why}", hint=_hint(program, number))


def _hint(program: str, number: int) -> str:
    if number == errno.ENOENT and "/" not in program:
        return "it is in no folder of PATH"
    hints = {
        errno.ENOEXEC: "it is no program for this machine, or a script without a first line (#!)",
        errno.E2BIG: "a single argument may have 128 KiB; put a longer script into a file",
        errno.EACCES: "its file, or a folder above it, does not allow this user to run it",
    }
    return hints.get(number, "")


def exit_status(message: Sequence[Any], answer: bytes) -> ExitStatus:
    """Return what a shepherd's last words mean."""
    code = os.waitstatus_to_exitcode(message[2])
    return ExitStatus(
        code=code if code >= 0 else 128 - code,
        signal=max(0, -code),
        cpu_s=message[3],
        max_rss_bytes=message[4],
        answer=answer,
    )
