"""The write-ahead file: what is new, as JSON lines, at once there for queries."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec

from dogwatch.logs.rows import mapping

_DECODER = msgspec.json.Decoder(dict[str, object])
_PART_BYTES = 256 * 1024
Batch = tuple[int, list[dict[str, object]]]


def header(arrived_us: int) -> bytes:
    return b"#%d\n" % arrived_us


def read(path: Path) -> Iterator[Batch]:
    """Yield (arrival in microseconds, records); a line that was torn by a crash is left out. Raises: OSError."""
    arrived_us, rest = 0, b""
    with path.open("rb") as file:
        while part := file.read(_PART_BYTES):
            whole, newline, rest = (rest + part).rpartition(b"\n")
            if not newline:
                continue
            for given in (whole + newline).split(b"\n#"):
                # Only headers begin with #: records are objects.
                chunk = given.removeprefix(b"#")
                if chunk[:1].isdigit():
                    number, _newline, chunk = chunk.partition(b"\n")
                    arrived_us = int(number) if number.isdigit() else arrived_us
                if chunk.strip():
                    yield arrived_us, _records(chunk)


def _records(data: bytes) -> list[dict[str, object]]:
    try:
        return _DECODER.decode_lines(data)
    except ValueError:
        return [found for line in data.split(b"\n") if (found := record(line)) is not None]


def record(line: bytes) -> dict[str, object] | None:
    """Return the record of a line as it was acknowledged, with whatever numbers; None for one that was torn."""
    try:
        found = mapping(line)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None
