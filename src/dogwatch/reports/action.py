"""The action kind `report`: a step that sends the daily inspection, or keeps it as its output."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal

from dogwatch.core.units import Seconds, format_duration
from dogwatch.engine.action import Action, Change, Outcome, Scene, Wait
from dogwatch.errors import NotFound, PermanentError
from dogwatch.notify.message import Enqueued, Message
from dogwatch.notify.view import Outbox
from dogwatch.reports.inspection import Inspection, text_of
from dogwatch.reports.part import Reports
from dogwatch.words import Language, Phrase, words

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
        since, to = format_duration(self.since), ", ".join(self.to)
        if to:
            return Change(summary=f"make the {self.which} report of the last {since}, send it to {to}")
        return Change(summary=f"make the {self.which} report of the last {since}, send it")

    async def apply(self, scene: Scene) -> Outcome | Wait:
        reports = scene.get(Reports)
        found = await reports.daily(self.since)
        base_url = reports.base_url
        text = text_of(found, base_url)
        scene.write(text)
        needs = len(found.person)
        if not self.to or (self.only_if_needed and not needs):
            return Outcome(outputs={"messages": [], "needs": needs}, changed=False, message=f"{needs} need a person")
        outbox = scene.get(Outbox)  # type: ignore[type-abstract]
        readers: dict[Language, list[str]] = {}
        for name in self.to:
            readers.setdefault(outbox.language_of(name), []).append(name)
        queued: list[Enqueued] = []
        try:
            for language, names in readers.items():
                queued += await outbox.send(_message(scene, found, base_url, names, language))
        except NotFound as error:
            raise PermanentError(str(error), hint=error.hint) from None
        ids = [one.message_id for one in queued]
        return Outcome(
            outputs={"messages": ids, "needs": needs}, changed=any(one.created for one in queued), message="sent"
        )


def _message(scene: Scene, found: Inspection, base_url: str, to: Sequence[str], language: Language) -> Message:
    """Return the report for those who read one language."""
    needs, spoken = len(found.person), words(language)
    title = Phrase("Dogwatch: {0} need a person", needs) if needs else Phrase("Dogwatch: nothing needs a person")
    return Message(
        to=tuple(to),
        type="report.daily",
        title=str(spoken.said(title)),
        text=scene.mask(text_of(found, base_url, language))[:_MOST_CHARS],
        severity=found.severity,
        data={"run_id": scene.run_id, "needs": needs},
        labels=scene.labels,
        url=f"{base_url.rstrip('/')}/reports/daily" if base_url else "",
        dedupe=scene.idempotency_key,
        language=language,
    )
