"""Conditions of rules: what compiles, what is refused and with which hint, and what they say of signals."""

from __future__ import annotations

import pytest

from dogwatch.core.values import Signal, Value
from dogwatch.expressions.cel_syntax import ConditionError
from dogwatch.rules.board import Board
from dogwatch.rules.decider import Truth
from dogwatch.rules.gauge import Gauge
from dogwatch.rules.names import host_values
from dogwatch.rules.spec import Rule, RuleSpec, compile_rule
from dogwatch.rules.when import compile_when


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("", "empty", ""),
        ("host.cpu_rato > 1", "unknown name 'host.cpu_rato'", "host.cpu_ratio"),
        ("duration_s > 1", "unknown name 'duration_s'", "probe.duration_s"),
        ('avgg(host.load1, "5m") > 1.0', "unknown function 'avgg()'", "avg"),
        ('avg(host.load1, "5x") > 1.0', "is not a duration", ""),
        ('avg(host.load1, "0s") > 1.0', "more than nothing", ""),
        ('avg(host.load1, "30d") > 1.0', "at most 7d", ""),
        ("avg(host.load1, 5) > 1.0", "the time is a text", ""),
        ("avg(host.load1) > 1.0", "wants a value and a time", "avg(probe.duration_s"),
        ('avg(host.load1 * 2.0, "5m") > 1.0', "wants the name of a value", ""),
        ('avg(probe.status, "5m") > 1.0', "wants a number, and 'probe.status' is string", ""),
        ('quantile(1.5, probe.duration_s, "5m") > 1.0', "from 0 to 1", ""),
        ('quantile(probe.duration_s, "5m") > 1.0', "wants a share", "quantile(0.95"),
        ('forecast(host.load1, "5m") > 1.0', "not there yet", ""),
        ('changes(alert.firing["X"], "5m") > 1', "are read as they are now", "for:"),
        ('alert.fireing["X"]', "unknown name 'alert.fireing'", "alert.firing"),
        ("host.load1", "must be true or false", ""),
        ("probe.success == 1", "'==' cannot take bool and int", ""),
        ("host.load1 > 'a'", "cannot take double and string", ""),
        ("true", "reads nothing", ""),
        ('host.load1["a"] > 1.0', "cannot be indexed", ""),
        ("host.load1 >", "found the end", ""),
        ("[1].exists(x, x > 0)", "unknown function 'exists()'", ""),
    ],
)
def test_mistakes_are_found_when_it_is_compiled(text: str, message: str, hint: str) -> None:
    with pytest.raises(ConditionError) as caught:
        compile_when(text)
    assert message in str(caught.value)
    assert hint in caught.value.hint


def rule(when: str, **options: object) -> Rule:
    return compile_rule(RuleSpec(name="r", when=when, **options))  # type: ignore[arg-type]


def told(when: str, *samples: tuple[float, dict[str, Value]], now_s: float | None = None) -> tuple[Truth, str]:
    one = rule(when)
    gauge = Gauge([one])
    seen = None
    for time_s, values in samples:
        seen = gauge.take(Signal(source=one.source, target="t", time_s=time_s, values=values))
    assert seen is not None
    answer = gauge.answer(one, seen, samples[-1][0] if now_s is None else now_s, firing=False)
    return answer.truth, answer.evidence


LOADS: tuple[tuple[float, dict[str, Value]], ...] = tuple(
    (float(at * 10), {"host.load1": load}) for at, load in enumerate((1.0, 2.0, 6.0))
)


@pytest.mark.parametrize(
    ("when", "truth"),
    [
        ("host.load1 > 5", Truth.YES),
        ("host.load5 > 5", Truth.UNKNOWN),
        ('avg(host.load1, "1m") == 3.0', Truth.YES),
        ('avg(host.load1, "15s") == 4.0', Truth.YES),
        ('min(host.load1, "1m") < 1', Truth.NO),
        ('max(host.load1, "1m") > 5', Truth.YES),
        ('sum(host.load1, "1m") == 9.0', Truth.YES),
        ('count(host.load1, "1m") == 3', Truth.YES),
        ('changes(host.load1, "1m") == 2', Truth.YES),
        ('rate(host.load1, "1m") == 0.25', Truth.YES),
        ('quantile(0.5, host.load1, "1m") == 2.0', Truth.YES),
        ('absent(host.load1, "1m")', Truth.NO),
        ('absent(host.load5, "1m")', Truth.YES),
        ('count(host.load5, "1m") == 0', Truth.YES),
        ("100.0 / (host.load1 - 6.0) > 1 && host.load5 > 1", Truth.UNKNOWN),
    ],
)
def test_answers(when: str, truth: Truth) -> None:
    assert told(when, *LOADS)[0] is truth


def test_an_answer_shows_the_values_that_it_read() -> None:
    assert told('avg(host.load1, "1m") > 2', *LOADS)[1] == 'avg(host.load1, "1m") > 2: avg(host.load1, "1m") is 3'


def test_absence_comes_by_time_alone() -> None:
    assert told('absent(host.load1, "1m")', *LOADS, now_s=79.0)[0] is Truth.NO
    assert told('absent(host.load1, "1m")', *LOADS, now_s=81.0)[0] is Truth.YES


def test_texts_and_truths_over_time() -> None:
    seen: list[tuple[float, dict[str, Value]]] = [
        (float(at), {"probe.success": success, "probe.reason": reason})
        for at, (success, reason) in enumerate([(True, ""), (False, "timeout"), (False, "refused"), (True, "")])
    ]
    assert told('changes(probe.reason, "1m") == 3', *seen)[0] is Truth.YES
    assert told('avg(probe.success, "1m") == 0.5', *seen)[0] is Truth.YES


def test_series_of_hosts_become_values() -> None:
    values = host_values(
        [
            ('dogwatch_host_cpu_ratio{mode="user"}', 0.5),
            ('dogwatch_host_cpu_ratio{mode="system"}', 0.25),
            ('dogwatch_host_filesystem_used_ratio{mountpoint="/"}', 0.5),
            ('dogwatch_host_filesystem_used_ratio{mountpoint="/a \\"b\\""}', 0.9),
            ("node_load1", 3.0),
            ("other", 1.0),
        ]
    )
    assert values["host.cpu_ratio"] == 0.75
    assert values["host.filesystem_used_ratio"] == 0.9
    assert values['host.filesystem_used_ratio["/"]'] == 0.5
    assert values['host.filesystem_used_ratio["/a "b""]'] == 0.9
    assert values["host.load1"] == 3.0
    assert told('host.filesystem_used_ratio["/"] > 0.4', (0.0, values))[0] is Truth.YES


def test_a_probe_reads_its_hosts_values() -> None:
    one = rule("probe.duration_s > 1 && host.load1 > 5")
    gauge = Gauge([one])
    gauge.take(Signal(source="host", target="db-1", time_s=0.0, values={"host.load1": 9.0}))
    values: dict[str, Value] = {"probe.duration_s": 2.0}
    here = gauge.take(Signal(source="probe", target="a", time_s=1.0, values=values, labels={"host": "db-1"}))
    elsewhere = gauge.take(Signal(source="probe", target="b", time_s=1.0, values=values, labels={"host": "db-2"}))
    assert gauge.answer(one, here, 1.0, firing=False).truth is Truth.YES
    assert gauge.answer(one, elsewhere, 1.0, firing=False).truth is Truth.UNKNOWN


def test_alerts_of_others_are_about_a_target_or_its_host() -> None:
    rule = compile_rule(RuleSpec(name="r", when='probe.success && alert.firing["X"] && !alert.firing["Y"]'))
    gauge = Gauge([rule])
    seen = gauge.take(
        Signal(source="probe", target="shop", time_s=1.0, values={"probe.success": True}, labels={"host": "h"})
    )
    # Nobody said anything: that is a no, and not unknown.
    assert gauge.answer(rule, seen, 1.0, firing=False).truth is Truth.NO
    for about in ("shop", "h"):
        board = Board()
        on = board.tell(about, "alertmanager:X", "g", {}, firing=True, now_s=2.0)
        assert on is not None
        gauge.take(on)
        assert gauge.answer(rule, seen, 2.0, firing=False).truth is Truth.YES
        # Of two of one name the first that ends changes nothing.
        assert board.tell(about, "alertmanager:X", "other", {}, firing=True, now_s=3.0) is None
        assert board.tell(about, "alertmanager:X", "g", {}, firing=False, now_s=4.0) is None
        off = board.tell(about, "alertmanager:X", "other", {}, firing=False, now_s=5.0)
        assert off is not None
        gauge.take(off)
        assert gauge.answer(rule, seen, 5.0, firing=False).truth is Truth.NO
