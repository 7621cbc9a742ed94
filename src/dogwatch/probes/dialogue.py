"""What is said and expected on a stream, step by step: shared by the kinds that speak no protocol of their own."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from time import perf_counter
from typing import Any, Literal

import msgspec

from dogwatch.core.units import Secret
from dogwatch.probes.patterns import expand, pattern, pattern_faults
from dogwatch.probes.progress import ProbeFailed
from dogwatch.probes.stream import Stream

LineEnd = Literal["lf", "crlf", "none"]
_ENDS = {"lf": "\n", "crlf": "\r\n", "none": ""}
_LABEL = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
DIALOGUE_VARIABLES = {
    "matched": "string",
    "captured": "map",
    "failed_regex": "bool",
    "failed_bytes": "bool",
}
DIALOGUE_MEANINGS = {
    "matched": "what the last expect matched",
    "captured": "groups by the names in capture",
    "failed_regex": "whether an expect did not match",
    "failed_bytes": "whether other bytes came than those of expect_hex",
}
DIALOGUE_METRICS = {
    "failed_regex": ("probe_failed_due_to_regex", "Indicates if probe failed due to regex"),
    "failed_bytes": ("probe_failed_due_to_bytes", "Indicates if probe failed due to bytes"),
}


class DialogueStep(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One step, in this order: wait, send, start TLS.

    expect: regular expression (RE2) that a line of the answer must match; lines before it are passed over.
    expect_hex: bytes that must come next, as `00 1F`. capture: names for groups of the match, as `version: $1`; an
    expectation finds them in `captured`. send: text to send, with the line end of the probe after it; `$1` and `$name`
    stand for groups of the newest match (also `$${1}`, since a configuration file takes `${…}` for the environment),
    `$$` for a dollar sign. It may hold a password and is never shown. send_hex: bytes to send as they are, without a
    line end. starttls: do the TLS handshake now, with the options in `tls`.
    """

    expect: str | None = None
    expect_hex: str = ""
    capture: dict[str, str] = msgspec.field(default_factory=dict)
    send: Secret | None = None
    send_hex: Secret = ""
    starttls: bool = False


def dialogue_faults(steps: tuple[DialogueStep, ...]) -> list[tuple[tuple[str | int, ...], str, str]]:
    """Return what is wrong with the steps of the option `dialogue`."""
    found: list[tuple[tuple[str | int, ...], str, str]] = []
    for number, step in enumerate(steps):
        place = ("dialogue", number)
        found += pattern_faults(step.expect, *place, "expect")
        for name in ("expect_hex", "send_hex"):
            try:
                bytes.fromhex(getattr(step, name))
            except ValueError:
                found.append(((*place, name), "is not hexadecimal", "write it as 00 1F"))
        if step.expect is not None and step.expect_hex:
            found.append(((*place, "expect_hex"), "excludes expect", "use two steps"))
        if step.send is not None and step.send_hex:
            found.append(((*place, "send_hex"), "excludes send", "use two steps"))
        if step.capture and step.expect is None:
            found.append(((*place, "capture"), "needs expect", ""))
        found += [
            ((*place, "capture", name), "is not a name", "letters, digits and _")
            for name in step.capture
            if not _LABEL.fullmatch(name)
        ]
        if step.expect is None and step.send is None and not (step.starttls or step.expect_hex or step.send_hex):
            found.append((place, "does nothing", "give expect, send or starttls"))
    return found


async def converse(
    stream: Stream, steps: tuple[DialogueStep, ...], line_end: LineEnd, start_tls: Callable[[], Awaitable[None]]
) -> None:
    """Go through the steps; fills matched, captured, failed_regex and failed_bytes.

    Raises: ProbeFailed.
    """
    progress = stream.progress
    progress.values["failed_regex"] = progress.values["failed_bytes"] = False
    started = perf_counter()
    match: Any = None
    for number, step in enumerate(steps, 1):
        if step.expect is not None:
            match = await _expect(stream, step.expect, number)
            captured = {name: expand(template, match) for name, template in step.capture.items()}
            if captured:
                progress.values["captured"] = {**progress.values.get("captured", {}), **captured}
        if step.expect_hex:
            await _expect_bytes(stream, bytes.fromhex(step.expect_hex), number)
        progress.doing = f"sending (dialogue step {number})"
        if step.send is not None:
            await stream.send((expand(step.send, match) + _ENDS[line_end]).encode())
        if step.send_hex:
            await stream.send(bytes.fromhex(step.send_hex))
        if step.starttls:
            await start_tls()
    progress.transfer_s = perf_counter() - started


async def _expect(stream: Stream, expression: str, number: int) -> Any:
    progress = stream.progress
    progress.doing = f"waiting for a line matching '{expression}' (dialogue step {number})"
    progress.values["failed_regex"] = True  # until it matched: a timeout must show it, too
    compiled = pattern(expression)
    started = perf_counter()
    while (line := await stream.read_line()) is not None:
        progress.first_byte_s = progress.first_byte_s or perf_counter() - started
        match = compiled.search(line)
        if match is not None:
            progress.values["failed_regex"] = False
            progress.values["matched"] = line[:1000].decode("utf-8", "replace")
            return match
    message = f"{stream.address}: no line matched '{expression}' (dialogue step {number}); the connection ended"
    raise ProbeFailed("mismatch", message)


async def _expect_bytes(stream: Stream, wanted: bytes, number: int) -> None:
    progress = stream.progress
    progress.doing = f"waiting for {len(wanted)} bytes (dialogue step {number})"
    started = perf_counter()
    data = await stream.read_exactly(len(wanted))
    progress.first_byte_s = progress.first_byte_s or perf_counter() - started
    progress.hear(data)
    if data != wanted:
        progress.values["failed_bytes"] = True
        got = data[:32].hex(" ")
        message = f"{stream.address}: got the bytes {got}, wanted {wanted[:32].hex(' ')} (dialogue step {number})"
        raise ProbeFailed("mismatch", message)
