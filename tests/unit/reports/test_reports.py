"""What reports say: availability that adds up, and an inspection that names what needs a person."""

from __future__ import annotations

import csv
import io
import re
import unicodedata

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.acting import FakeScene
from tests.fakes import FakeProgram

from dogwatch.errors import PermanentError
from dogwatch.notify.message import Enqueued, Message
from dogwatch.notify.view import Outbox
from dogwatch.reports.action import ReportAction
from dogwatch.reports.availability import availability_report, csv_of
from dogwatch.reports.inspection import Sources, inspect, text_of
from dogwatch.reports.part import Reports
from dogwatch.rules.incident import Incident
from dogwatch.store.protocol import Availability
from dogwatch.words import Language

DAY_S = 86_400.0


def row(target: str, up_s: float, down_s: float, outages: int = 0, **more: float) -> Availability:
    known = {"degraded_s": 0.0, "maintenance_s": 0.0, "paused_s": 0.0, "unknown_s": 0.0, **more}
    good = up_s + known["degraded_s"]
    return Availability(
        target=target,
        since_s=0.0,
        until_s=DAY_S,
        up_s=up_s,
        down_s=down_s,
        incidents=outages,
        ratio=good / (good + down_s) if good + down_s else None,
        **known,
    )


def test_groups_are_sums_and_the_worst_comes_first() -> None:
    rows = [row("a", 90, 10, 2), row("b", 100, 0), row("c", 0, 0, unknown_s=100), row("d", 50, 50, 1, degraded_s=100)]
    report = availability_report(rows, {"a": "web", "b": "web", "d": "data"}, since_s=0, until_s=DAY_S)
    assert [line.name for line in report.targets] == ["d", "a", "b", "c"]
    web = next(line for line in report.groups if line.name == "web")
    assert (web.ratio, web.outages, web.down_s, web.mean_repair_s, web.targets) == (0.95, 2, 10, 5.0, 2)
    assert report.whole.ratio == pytest.approx(340 / 400)
    assert report.targets[-1].ratio is None


@given(st.lists(st.tuples(st.floats(0, 1e6), st.floats(0, 1e6), st.integers(0, 9)), max_size=20))
def test_the_whole_is_what_its_groups_are(parts: list[tuple[float, float, int]]) -> None:
    rows = [row(f"t{at}", up, down, outages) for at, (up, down, outages) in enumerate(parts)]
    groups = {f"t{at}": f"g{at % 3}" for at in range(len(parts))}
    report = availability_report(rows, groups, since_s=0, until_s=DAY_S)
    assert report.whole.down_s == pytest.approx(sum(line.down_s for line in report.groups))
    assert report.whole.outages == sum(line.outages for line in report.groups)
    assert report.whole.ratio is None or 0 <= report.whole.ratio <= 1


def test_no_spreadsheet_takes_a_name_for_a_formula() -> None:
    rows = [row('=cmd|"/c calc"!A1', 1, 0), row('a,b\n"c"', 1, 0)]
    report = availability_report(rows, {}, since_s=0, until_s=DAY_S)
    names = [line["name"] for line in csv.DictReader(io.StringIO(csv_of(report))) if line["kind"] == "target"]
    assert sorted(names) == ['\'=cmd|"/c calc"!A1', 'a,b\n"c"']


@given(st.text(min_size=1, max_size=12), st.text(max_size=12))
def test_no_cell_begins_as_a_formula_does(name: str, group: str) -> None:
    """As a spreadsheet opens it: each cell by itself, space before it left out, wide forms taken for narrow ones."""
    text = csv_of(availability_report([row(name, 1, 0)], {name: group}, since_s=0, until_s=DAY_S))
    for line in csv.reader(io.StringIO(text, newline="")):
        for cell in line:
            begin = unicodedata.normalize("NFKC", cell).lstrip()[:1]
            assert begin not in {"=", "+", "-", "@", "|", "%"}, cell


class FakeOutbox:
    def __init__(self, languages: dict[str, Language] | None = None) -> None:
        self.sent: list[Message] = []
        self.languages = languages or {}

    def language_of(self, destination: str) -> Language:
        return self.languages.get(destination, "en")

    async def destinations(self) -> list[object]:
        return []

    async def send(self, message: Message) -> list[Enqueued]:
        self.sent.append(message)
        return [Enqueued(message_id="msg_1", destination="ops", created=True)]


def sources(program: FakeProgram) -> Sources:
    async def available(names: list[str], since_s: float, until_s: float) -> list[Availability]:
        return [row(name, until_s - since_s, 0) for name in names]

    return Sources(
        clock=program.clock,
        store=program.store,
        targets=program.watch.targets,
        hosts=program.hosts.hosts,
        available=available,  # type: ignore[arg-type]
        findings=lambda: [{"symptom": "descriptors grow"}],
        reloads=program.reload.history,
    )


async def test_an_inspection_names_what_needs_a_person() -> None:
    program = FakeProgram()
    found = await inspect(sources(program), since_s=program.clock.now_s() - DAY_S)
    said = [str(one) for one in found.person]
    assert "shop/checkout is down: status is 503, expected 200" in said
    assert "descriptors grow" in said
    assert any("is 96 % full" in one for one in said)
    ranks = ["critical", "error", "warning", "info"]
    assert [ranks.index(one.severity) for one in found.person] == sorted(
        ranks.index(one.severity) for one in found.person
    )
    assert "targets: 12, in groups: 4" in [str(one) for one in found.checked]
    text = text_of(found, "https://watch.example/")
    assert "[error] shop/checkout is down" in text
    assert "https://watch.example/targets/shop%2Fcheckout" in text


async def test_what_an_incident_tells_is_told_once() -> None:
    program = FakeProgram()
    now_s = program.clock.now_s()
    one = Incident(
        number=7,
        root="shop/checkout",
        rule="target-down",
        summary="shop/checkout is down",
        severity="error",
        opened_s=now_s,
        began_s=now_s,
    )
    found = await inspect(
        msgspec.structs.replace(sources(program), incidents=Found([one])),  # type: ignore[arg-type]
        since_s=now_s - DAY_S,
    )
    said = [str(line) for line in found.person]
    assert [line for line in said if "shop/checkout" in line] == ["nobody has taken incident #7: shop/checkout is down"]


class Found:
    """Incidents that are a list."""

    def __init__(self, items: list[Incident]) -> None:
        self.items = items

    async def find(self, **_wanted: object) -> Found:
        return self


async def test_a_step_sends_it_once() -> None:
    program, outbox = FakeProgram(), FakeOutbox()
    reports = Reports(lambda: sources(program))
    scene = FakeScene(services={Reports: reports, Outbox: outbox})
    outcome = await ReportAction(to=("ops",)).apply(scene)  # type: ignore[arg-type]
    [message] = outbox.sent
    assert message.dedupe == scene.idempotency_key
    assert message.severity == "error"
    assert "Needs a person" in message.text
    assert outcome.outputs["messages"] == ["msg_1"]  # type: ignore[union-attr]
    kept = await ReportAction().apply(FakeScene(services={Reports: reports}))  # type: ignore[arg-type]
    assert kept.outputs["needs"] > 0  # type: ignore[union-attr,operator]
    with pytest.raises(PermanentError):
        await ReportAction(to=("ops",)).apply(FakeScene())  # type: ignore[arg-type]


async def test_everybody_gets_it_in_their_language() -> None:
    program, outbox = FakeProgram(), FakeOutbox({"ops": "en", "值班": "zh", "运维": "zh"})
    scene = FakeScene(services={Reports: Reports(lambda: sources(program)), Outbox: outbox})
    _ = await ReportAction(to=("ops", "值班", "运维")).apply(scene)  # type: ignore[arg-type]
    english, chinese = outbox.sent
    assert (english.to, chinese.to) == (("ops",), ("值班", "运维"))
    assert "Needs a person" in english.text
    assert chinese.language == "zh"
    assert chinese.title.startswith("Dogwatch：")
    assert "需要人处理" in chinese.title
    lines = chinese.text.split("\n")
    assert lines[0] == "需要人处理"
    assert "  [错误] shop/checkout 故障：status is 503, expected 200" in lines
    assert "  12 个目标，4 个组" in lines
    ours = [line for line in lines if not any(text in line for text in ("503", "descriptors", "filesystem"))]
    assert not [line for line in ours if re.search("[a-z]{2,} [a-z]{2,} [a-z]{2,}", line)], ours


def test_a_spreadsheets_head_is_in_a_language_if_asked_for() -> None:
    report = availability_report([row("shop", 1, 0)], {}, since_s=0, until_s=DAY_S)
    assert csv_of(report).startswith("kind,name,group,availability_ratio,")
    assert csv_of(report, "zh").startswith("类别,名称,组,可用率,")
    assert "\n目标,shop," in csv_of(report, "zh").replace("\r", "")


def test_its_plan_says_where_it_goes() -> None:
    assert ReportAction(to=("ops",)).plan().summary == "make the daily report of the last 1d, send it to ops"
