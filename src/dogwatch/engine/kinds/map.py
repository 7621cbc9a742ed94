"""The same action for each item of a list."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, ClassVar, Literal

from msgspec import Meta

from dogwatch.engine.action import Action, Change, Outcome, Scene, Wait
from dogwatch.engine.values import Json
from dogwatch.errors import PermanentError


class MapAction(Action, frozen=True, kw_only=True):
    """Does one action for each item of a list, so many at the same time; each is a step of its own, `deploy[2]`.

    over: the list, or one template that makes it. do: the action, written as its kind; it reads `item` and `index`.
    parallel: how many at the same time. on_error: stop: the first failure ends the rest; collect: all are done.
    """

    kind: ClassVar[str] = "map"
    control: ClassVar[bool] = True
    # items: the outputs of each, in the order of the list.
    outputs: ClassVar[Mapping[str, str]] = {"items": "list"}

    over: list[Json] | str
    do: Action
    parallel: Annotated[int, Meta(ge=1, le=1000)] = 4
    on_error: Literal["stop", "collect"] = "stop"

    def faults(self) -> Iterable[tuple[tuple[str | int, ...], str, str]]:
        text = self.over.strip() if isinstance(self.over, str) else ""
        if isinstance(self.over, str) and not (text.startswith("{{") and text.endswith("}}")):
            yield ("over",), f"'{text[:60]}' is not a list", "write a list, or one template: '{{ params.hosts }}'"
        if self.do.control:
            yield (self.do.kind,), f"a {self.do.kind} cannot be inside of a map", "call a job that has it"

    def plan(self) -> Change:
        below = self.do.plan()
        count = f"{len(self.over)} items" if isinstance(self.over, list) else "each item of a list"
        summary = f"{below.summary}, for {count}, {self.parallel} at the same time"
        return Change(summary=summary, details=below.details, undo=below.undo, destructive=below.destructive)

    async def apply(self, scene: Scene) -> Outcome | Wait:  # noqa: ARG002 - the engine makes steps of it instead
        raise PermanentError("a map is carried out by the engine, item by item")
