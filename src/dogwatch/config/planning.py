"""What a reload would do: everything up to the point where something would be started."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Mapping, Sequence

from dogwatch.config.background import Lane, no_collection
from dogwatch.config.changes import differences
from dogwatch.config.deadlines import Deadlines
from dogwatch.config.load import Loaded, Loader, Parsed
from dogwatch.config.part import Part, Prepared
from dogwatch.config.status import Difference, ReloadPlan
from dogwatch.errors import ConfigError, DogwatchError, Problem

log = logging.getLogger(__name__)

_Built = list[tuple[Part, Prepared]]
MAX_DIFFERENCES = 1000
MAX_PROBLEMS = 200


async def planned(
    loader: Loader, lane: Lane, parts: Sequence[Part], current: Loaded | None, deadlines: Deadlines
) -> ReloadPlan:
    """Return what a reload would do now. current: what is in force. Raises: TimeoutError."""
    built: _Built = []
    try:
        with no_collection():
            return await _found(loader, lane, parts, current, deadlines, built)
    finally:
        await _discard(built, deadlines.stop_s)


async def _found(
    loader: Loader,
    lane: Lane,
    parts: Sequence[Part],
    current: Loaded | None,
    deadlines: Deadlines,
    built: _Built,
) -> ReloadPlan:
    timeout_s = deadlines.load_s
    try:
        parsed = await lane.run(loader.parse, timeout_s=timeout_s)
    except (OSError, DogwatchError) as error:
        return ReloadPlan(outcome="fails", problems=_lines(_problems(error)))
    if current is not None and not parsed.problems and parsed.digest == current.digest:
        return ReloadPlan(outcome="unchanged", files=parsed.files)
    before = current.parsed.tree if current is not None else None
    found = await lane.run(lambda: differences(before, parsed.tree), timeout_s=timeout_s)
    problems: Sequence[Problem]
    try:
        loaded = await lane.run(lambda: loader.validate(parsed), timeout_s=timeout_s)
    except ConfigError as error:
        problems = error.problems
    else:
        problems = await _build(parts, loaded, built, deadlines.build_s)
    return _plan(parsed, found, problems)


async def _build(parts: Sequence[Part], loaded: Loaded, built: _Built, timeout_s: float) -> list[Problem]:
    """Let every part prepare, and return their complaints."""
    problems: list[Problem] = []
    loop = asyncio.get_running_loop()
    began_s = loop.time()
    for part in parts:
        if loop.time() - began_s > timeout_s:
            raise TimeoutError(f"building took longer than {timeout_s:g} s, at {part.name}")
        try:
            built.append((part, part.prepare(loaded)))
        except DogwatchError as error:
            problems += _problems(error, of=part.name)
        await asyncio.sleep(0)
    return problems


async def _discard(built: _Built, timeout_s: float) -> None:
    for part, prepared in reversed(built):
        try:
            async with asyncio.timeout(timeout_s):
                await prepared.discard()
        except Exception:
            log.exception("plan of a reload: %s could not undo what it prepared", part.name)


def _problems(error: Exception, *, of: str = "") -> Sequence[Problem]:
    if isinstance(error, ConfigError):
        return error.problems
    hint = error.hint if isinstance(error, DogwatchError) else ""
    return [Problem(f"{of}: {error}" if of else str(error), hint=hint)]


def _lines(problems: Sequence[Problem]) -> list[str]:
    lines = [str(one) for one in problems[:MAX_PROBLEMS]]
    more = len(problems) - len(lines)
    return [*lines, f"… and {more} more"] if more else lines


def _plan(parsed: Parsed, found: Sequence[Difference], problems: Sequence[Problem]) -> ReloadPlan:
    return ReloadPlan(
        outcome="fails" if problems else "applies",
        differences=found[:MAX_DIFFERENCES],
        total=len(found),
        counts=_counts(found),
        problems=_lines(problems),
        restart=_lines([one for one in problems if one.restart]),
        files=parsed.files,
    )


def _counts(found: Sequence[Difference]) -> Mapping[str, Mapping[str, int]]:
    counts: dict[str, Counter[str]] = {}
    for one in found:
        counts.setdefault(one.section, Counter())[one.what] += 1
    return {section: {what: of[what] for what in ("added", "changed", "removed")} for section, of in counts.items()}
