"""Records of several lines: which lines belong together, found over whole blocks.

Inside a block a record stays one line: INNER stands for the newlines within it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from dogwatch.core.units import Bytes, Seconds

INNER = b"\x1e"
Preset = Literal["python", "java", "go", "indented", "cri", "docker", "containers"]
Faults = Iterable[tuple[tuple[str | int, ...], str, str]]
# True for each line that continues the one before.
Classify = Callable[[Sequence[bytes]], list[bool]]


class Multiline(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which lines make one record.

    preset: stack traces of python, java or go, indented lines, or the parts into which cri and docker split long lines
    (containers: of either). start: else a pattern of the first line of a record. continue: or a pattern of lines that
    go on with the one before. timeout: a record is whole when nothing came for so long. max_lines, max_size: a longer
    one is delivered in parts.
    """

    preset: Preset | None = None
    start: str = ""
    continue_: str = msgspec.field(default="", name="continue")
    timeout: Seconds = 1.0
    max_lines: Annotated[int, Meta(ge=1, le=100_000)] = 1000
    max_size: Bytes = 256 * 1024

    def faults(self) -> Faults:
        import re2

        given = [name for name in ("preset", "start", "continue_") if getattr(self, name)]
        if len(given) != 1:
            yield ("multiline",), "takes one of preset, start and continue", "multiline: {preset: python}"
        for name in ("start", "continue_"):
            if text := getattr(self, name):
                try:
                    re2.compile(text)
                except re2.error as error:
                    yield ("multiline", name.rstrip("_")), f"is not a pattern: {error}", ""

    def joiner(self) -> Joiner:
        return Joiner(self)


class Joined(msgspec.Struct, frozen=True):
    """data: records, each one line. starts: where each begins in what was given. used: how much of it they are. joined:
    whether any has INNER in it.
    """

    data: bytes
    starts: tuple[int, ...]
    used: int
    joined: bool


class Joiner:
    """Compiled. Used by one thread at a time."""

    def __init__(self, options: Multiline) -> None:
        self._options = options
        self._classify = _classifier(options)

    @property
    def timeout_s(self) -> float:
        return self._options.timeout

    def join(self, data: bytes, *, whole: bool) -> Joined:
        """Join whole lines to records. whole: nothing more will come; else the last record is left, it may go on."""
        lines = data.split(b"\n")
        lines.pop()
        continues = self._classify(lines)
        starts: list[int] = []
        records: list[bytes] = []
        parts: list[bytes] = []
        at = size = begin = 0
        joined = False
        for line, goes_on in zip(lines, continues, strict=True):
            full = len(parts) >= self._options.max_lines or size + len(line) > self._options.max_size
            if parts and (not goes_on or full):
                records.append(INNER.join(parts))
                starts.append(begin)
                joined = joined or len(parts) > 1
                parts, size = [], 0
            if not parts:
                begin = at
            parts.append(line)
            size += len(line) + 1
            at += len(line) + 1
        used = begin
        if parts and whole:
            records.append(INNER.join(parts))
            starts.append(begin)
            joined = joined or len(parts) > 1
            used = at
        text = b"\n".join(records) + b"\n" if records else b""
        return Joined(text, tuple(starts), used, joined)


def _classifier(options: Multiline) -> Classify:
    if options.preset is not None:
        return _PRESETS[options.preset]
    import re2

    text = options.start or options.continue_
    # Bytes in, so that places are bytes, too; what is not UTF-8 must not stop it.
    search = re2.compile(text.encode(), _latin(re2)).search
    wanted = bool(options.continue_)
    return lambda lines: [bool(search(line)) is wanted for line in lines]


def _latin(re2: object) -> object:
    found = re2.Options()  # type: ignore[attr-defined]
    found.encoding = found.Encoding.LATIN1
    found.log_errors = False
    return found


def _indented(lines: Sequence[bytes]) -> list[bool]:
    return [line[:1] in (b" ", b"\t") for line in lines]


_CHAINED = (b"During handling of the above exception", b"The above exception was the direct cause")


def _python(lines: Sequence[bytes]) -> list[bool]:
    """A traceback belongs to the line before it, up to the line that names the exception; so do chained ones."""
    found = []
    inside = after = False
    for at, line in enumerate(lines):
        indented = line[:1] in (b" ", b"\t")
        trace = line.lstrip(b" |+").startswith(b"Traceback (most recent call last):")
        if trace:
            inside = True
        elif inside and not indented:
            # The exception itself; its message may go on indented.
            inside, after = False, True
            found.append(True)
            continue
        elif after and not line:
            following = lines[at + 1] if at + 1 < len(lines) else b""
            found.append(following.startswith(_CHAINED) or following.startswith(b"Traceback") or not following)
            continue
        elif not indented and not line.startswith(_CHAINED):
            after = False
        found.append(trace or indented or line.startswith(_CHAINED))
    return found


_JAVA = re.compile(rb"[ \t]+(?:at |\.\.\. \d+ |Suppressed: )|Caused by: |[ \t]")
_JAVA_CLASS = re.compile(rb"(?:[a-zA-Z_$][\w$]*\.)+[A-Z][\w$]*(?::|\s*$)")


def _java(lines: Sequence[bytes]) -> list[bool]:
    """Frames and causes belong to the line before; so does the line that names the exception where frames follow it."""
    found = []
    for at, line in enumerate(lines):
        following = lines[at + 1].lstrip() if at + 1 < len(lines) else b""
        names = _JAVA_CLASS.match(line) is not None and (following.startswith(b"at ") or at + 1 == len(lines))
        found.append(names or _JAVA.match(line) is not None)
    return found


_GO_BEGIN = re.compile(rb"panic: |fatal error: |goroutine \d+ \[|http: panic serving |runtime: ")
_GO = re.compile(
    rb"$|[ \t]|goroutine \d+ \[|\[signal |panic: |created by |exit status |[\w./*()\[\]{},%$-]+\(.*\)$"
    rb"|\.\.\.additional frames"
)


def _go(lines: Sequence[bytes]) -> list[bool]:
    """Everything from a panic to the last frame; it begins a record of its own, as the runtime writes it."""
    found = []
    inside = False
    for line in lines:
        if inside and _GO.match(line):
            found.append(True)
            continue
        inside = _GO_BEGIN.match(line) is not None
        found.append(False)
    return found


_CRI = re.compile(rb"\S+ (stdout|stderr) (P|F)")


def _cri(lines: Sequence[bytes]) -> list[bool]:
    found = []
    open_stream = b""
    for line in lines:
        match = _CRI.match(line)
        stream, part = match.groups() if match else (b"", b"F")
        found.append(bool(open_stream) and stream == open_stream)
        open_stream = stream if part == b"P" else b""
    return found


def _docker(lines: Sequence[bytes]) -> list[bool]:
    found = []
    partial = False
    for line in lines:
        found.append(partial)
        # The line's own newline is the last thing in "log".
        partial = b'"log":"' in line and b'\\n","' not in line and not line.endswith(b'\\n"}')
    return found


def _containers(lines: Sequence[bytes]) -> list[bool]:
    """Lines of containers, of whichever engine."""
    return (_docker if lines and lines[0].startswith(b"{") else _cri)(lines)


_PRESETS: dict[str, Classify] = {
    "containers": _containers,
    "indented": _indented,
    "python": _python,
    "java": _java,
    "go": _go,
    "cri": _cri,
    "docker": _docker,
}
