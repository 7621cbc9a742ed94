"""Reading configuration files and folders from disk. The only place of the loader that does I/O."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterable
from pathlib import Path

import msgspec

from dogwatch.errors import Problem

SUFFIXES = (".yaml", ".yml")
MAX_FILES = 1000
MAX_FILE_BYTES = 16 * 2**20
MAX_SECRET_BYTES = 2**20


class SourceFile(msgspec.Struct, frozen=True):
    """One file's content. name: as messages and origins show it."""

    name: str
    data: bytes


class Reading(msgspec.Struct, frozen=True, kw_only=True):
    """What was on disk, and what could not be read."""

    files: tuple[SourceFile, ...] = ()
    problems: tuple[Problem, ...] = ()


def read_sources(paths: Iterable[str | Path]) -> Reading:
    """Read files, and the `*.yaml` and `*.yml` of folders in the order of their names.

    Names that begin with a dot are left out: editors' and Kubernetes' own (`..data`).
    """
    files: list[SourceFile] = []
    problems: list[Problem] = []
    for path in map(Path, paths):
        try:
            names = list_folder(path) if path.is_dir() else [path]
        except OSError as error:
            problems.append(Problem(f"cannot be read: {_reason(error)}", file=str(path)))
            continue
        if not names:
            problems.append(Problem("no *.yaml or *.yml file in this folder", file=str(path)))
        elif len(names) > MAX_FILES:
            problems.append(Problem(f"more than {MAX_FILES} files in this folder", file=str(path)))
            continue
        for name in names:
            _read_into(name, files, problems)
    return Reading(files=tuple(files), problems=tuple(problems))


def list_folder(folder: Path) -> list[Path]:
    """Return the configuration files of a folder, in order. Raises: OSError."""
    with os.scandir(folder) as entries:
        names = [entry.name for entry in entries]
    return [folder / name for name in sorted(names) if name.endswith(SUFFIXES) and not name.startswith(".")]


def _read_into(path: Path, files: list[SourceFile], problems: list[Problem]) -> None:
    try:
        data = read_bounded(path, MAX_FILE_BYTES)
    except FileNotFoundError:
        hint = "`dogwatch init` writes one to start from"
        problems.append(Problem("there is no such file", file=str(path), hint=hint))
    except (OSError, ValueError) as error:
        problems.append(Problem(f"cannot be read: {_reason(error)}", file=str(path)))
    else:
        files.append(SourceFile(str(path), data))


def read_bounded(path: Path, limit_bytes: int) -> bytes:
    """Return a regular file's content. Never waits on a FIFO or a device.

    Raises: OSError; ValueError if it is not a regular file or larger than limit_bytes.
    """
    # O_NONBLOCK: opening a FIFO without a writer would wait for ever.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        mode = os.fstat(descriptor).st_mode
        if stat.S_ISDIR(mode):
            raise ValueError("it is a folder, not a file")
        if not stat.S_ISREG(mode):
            raise ValueError("it is not a regular file")
        data = b""
        while len(data) <= limit_bytes and (chunk := os.read(descriptor, limit_bytes + 1 - len(data))):
            data += chunk
    finally:
        os.close(descriptor)
    if len(data) > limit_bytes:
        raise ValueError(f"it is larger than {limit_bytes // 2**20} MiB")
    return data


def _reason(error: OSError | ValueError) -> str:
    return (error.strerror or str(error)).lower() if isinstance(error, OSError) else str(error)


class SecretFiles:
    """Reads what `${file:…}` names, once per load, and remembers which files those were.

    read: a function from a path to its bytes, for tests.
    """

    def __init__(self, read: Callable[[Path], bytes] | None = None) -> None:
        self.paths: dict[Path, None] = {}
        self._read = read or (lambda path: read_bounded(path, MAX_SECRET_BYTES))
        self._kept: dict[Path, str | ValueError] = {}

    def text(self, path: Path) -> str:
        """Return the content without its last line end.

        Raises: ValueError saying why not.
        """
        if path not in self._kept:
            self.paths[path] = None
            self._kept[path] = self._load(path)
        kept = self._kept[path]
        if isinstance(kept, ValueError):
            raise kept
        return kept

    def _load(self, path: Path) -> str | ValueError:
        try:
            text = self._read(path).decode()
        except UnicodeDecodeError:
            return ValueError(f"{path} is not UTF-8")
        except (OSError, ValueError) as error:
            return ValueError(f"cannot read {path}: {_reason(error)}")
        if "\0" in text:
            return ValueError(f"{path} is not text")
        return text.removesuffix("\n").removesuffix("\r")
