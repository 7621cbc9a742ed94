"""The action kind `report`: a step that sends the daily inspection, or keeps it as its output."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

from dogwatch.core.units import Seconds, format_duration
from dogwatch.engine.action import Action, Change, Outcome, Scene, Wait
from dogwatch.errors import NotFound, PermanentError
from dogwatch.notify.message import Message
from dogwatch.notify.view import Outbox
from dogwatch.reports.inspection import text_of
from dogwatch.reports.part import Reports

_MOST_CHARS = 60_000


class ReportAction(Action, frozen=True, kw_only=True):
    """Makes a report of the whole program, and sends it. A schedule of its job sends it every day.

    which: `daily` says what was checked, what changed and what needs a person. to: names of destinations; none
    to keep it as output only. since: over how long. only_if_needed: send nothing on a day that needs nobody.
    """

    kind: ClassVar[str] = "report"
    outputs: ClassVar[Mapping[str, str]] = {"messages": "list", "needs": "int"}
    which: Literal["daily"] = "daily"
    to: tuple[str, ...] = ()
    since: Seconds = 86_400.0
    only_if_needed: bool = False

    def plan(self) -> Change:
        to = f" to {', '.join(self.to)}" if self.to else ""
        return Change(summary=f"make the {self.which} report of the last {format_duration(self.since)}, send it{to}")

    async def apply(self, scene: Scene) -> Outcome | Wait:
        reports = scene.get(Reports)
        found = await reports.daily(self.since)
        base_url = reports.base_url
        text = text_of(found, base_url)
        scene.write(text)
        needs = len(found.person)
        if not self.to or (self.only_if_needed and not needs):
            return Outcome(outputs={"messages": [], "needs": needs}, changed=False, message=f"{needs} need a person")
        message = Message(
            to=self.to,
            type="report.daily",
            title=f"Dogwatch: {needs} need a person" if needs else "Dogwatch: nothing needs a person",
            text=scene.mask(text)[:_MOST_CHARS],
            severity=found.severity,
            data={"run_id": scene.run_id, "needs": needs},
            labels=scene.labels,
            url=f"{base_url.rstrip('/')}/reports/daily" if base_url else "",
            dedupe=scene.idempotency_key,
        )
        outbox = scene.get(Outbox)  # type: ignore[type-abstract]
        try:
            queued = await outbox.send(message)
        except NotFound as error:
            raise PermanentError(str(error), hint=error.hint) from None
        ids = [one.message_id for one in queued]
        return Outcome(
            outputs={"messages": ids, "needs": needs}, changed=any(one.created for one in queued), message="sent"
        )
