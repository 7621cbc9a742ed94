"""Finding targets among thousands: filters, pages by cursor, groups and counts. Pure."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable, Sequence
from typing import Protocol, TypeVar

import msgspec

from dogwatch.core.values import Status
from dogwatch.errors import UsageError
from dogwatch.probes.view import TargetView
from dogwatch.web.encoding import proper

STATUS_WORDS = tuple(status.word for status in Status)


class Filter(msgspec.Struct, frozen=True, kw_only=True):
    """What to show. Words are lower case and must all be found; of groups and of statuses, one must match."""

    words: tuple[str, ...] = ()
    groups: frozenset[str] = frozenset()
    statuses: frozenset[str] = frozenset()
    labels: tuple[tuple[str, str], ...] = ()

    def __bool__(self) -> bool:
        return bool(self.words or self.groups or self.statuses or self.labels)

    def matches(self, view: TargetView) -> bool:
        if self.statuses and view.status not in self.statuses:
            return False
        if self.groups and view.group not in self.groups:
            return False
        if any(view.labels.get(key) != value for key, value in self.labels):
            return False
        if not self.words:
            return True
        text = "\n".join((view.name, view.group, view.address, view.kind, *view.labels.values())).lower()
        return all(word in text for word in self.words)


def parse_filter(
    text: str = "", *, groups: Iterable[str] = (), statuses: Iterable[str] = (), labels: Iterable[str] = ()
) -> Filter:
    """Return the filter of a search box (`shop status:down group:web label:team=shop`) and of explicit values.

    Raises: UsageError for an unknown status or a label without "=".
    """
    words: list[str] = []
    found: dict[str, list[str]] = {"group": list(groups), "status": list(statuses), "label": list(labels)}
    for token in text.split():
        key, colon, value = token.partition(":")
        if colon and value and key in found:
            found[key].append(value)
        else:
            words.append(token.lower())
    for status in found["status"]:
        if status not in STATUS_WORDS:
            raise UsageError(f"unknown status '{status}'", hint=f"known: {', '.join(STATUS_WORDS)}")
    pairs = [label.partition("=") for label in found["label"]]
    for key, equals, _value in pairs:
        if not equals or not key:
            raise UsageError(f"'{key}' is not a label", hint="write it as team=shop")
    return Filter(
        words=tuple(words),
        groups=frozenset(found["group"]),
        statuses=frozenset(found["status"]),
        labels=tuple((key, value) for key, _equals, value in pairs),
    )


def encode_cursor(index: int, name: str) -> str:
    return base64.urlsafe_b64encode(msgspec.json.encode((index, proper(name)))).decode().rstrip("=")


def _decode_cursor(cursor: str) -> tuple[int, str]:
    try:
        content = base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4))
        return msgspec.json.decode(content, type=tuple[int, str])
    except (binascii.Error, ValueError, msgspec.MsgspecError) as error:
        raise UsageError("the cursor is not one of ours", hint="take next_cursor of the page before") from error


class Named(Protocol):
    @property
    def name(self) -> str: ...


N = TypeVar("N", bound=Named)


def page(views: Sequence[N], *, cursor: str, limit: int) -> tuple[Sequence[N], str]:
    """Return the views after the cursor ("" for the first), and the next cursor ("" at the end).

    The cursor names the last target seen, so that targets added or removed by a reload shift nothing; where that one
    itself is gone, its place counts.

    Raises: UsageError for a broken cursor.
    """
    start = 0
    if cursor:
        index, name = _decode_cursor(cursor)
        start = max(0, min(index, len(views) - 1)) + 1
        if not (0 <= index < len(views) and proper(views[index].name) == name):
            start = next((i + 1 for i, view in enumerate(views) if proper(view.name) == name), max(0, index))
    chosen = views[start : start + limit]
    end = start + len(chosen)
    return chosen, encode_cursor(end - 1, chosen[-1].name) if chosen and end < len(views) else ""


def counts(views: Iterable[TargetView]) -> dict[str, int]:
    """Return the number of targets in each status, all statuses named."""
    found = dict.fromkeys(STATUS_WORDS, 0)
    for view in views:
        found[view.status] += 1
    return found


class Group(msgspec.Struct, kw_only=True):
    """Targets of one group, in configuration order. status: the worst among them. tally: counts, once known."""

    name: str
    views: list[TargetView]
    tally: dict[str, int] | None = None

    @property
    def counts(self) -> dict[str, int]:
        if self.tally is None:
            self.tally = counts(self.views)
        return self.tally

    @property
    def status(self) -> str:
        return worst(status for status, number in self.counts.items() if number)


_SEVERITY = ("paused", "maintenance", "pending", "up", "degraded", "down")


def worst(statuses: Iterable[str]) -> str:
    """Return the status that stands for many: down, else degraded, else up, else what is not watched now."""
    return max(statuses, key=_SEVERITY.index, default="pending")


def grouped(views: Iterable[TargetView]) -> list[Group]:
    """Return groups in the order in which configuration first names them."""
    groups: dict[str, Group] = {}
    for view in views:
        group = groups.get(view.group)
        if group is None:
            group = groups[view.group] = Group(name=view.group, views=[])
        group.views.append(view)
    return list(groups.values())


def troubled(views: Iterable[TargetView]) -> list[TargetView]:
    """Return what is wrong now: down before degraded, the newest first."""
    wrong = [view for view in views if view.status in ("down", "degraded")]
    return sorted(wrong, key=lambda view: (view.status != "down", -view.since_s, view.name))
