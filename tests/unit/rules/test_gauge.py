"""Which rules look at which targets."""

from __future__ import annotations

from collections.abc import Mapping

from hypothesis import given
from hypothesis import strategies as st

from dogwatch.core.values import Signal
from dogwatch.rules.gauge import Gauge
from dogwatch.rules.spec import RuleSpec, compile_rule

LABELS = st.dictionaries(st.sampled_from("ab"), st.sampled_from("xy"), max_size=2)


@given(st.lists(st.tuples(LABELS, st.sampled_from(["probe.success", "host.load1 > 1"])), max_size=8), LABELS)
def test_a_target_is_looked_at_by_the_rules_that_take_it(
    wanted: list[tuple[Mapping[str, str], str]], labels: Mapping[str, str]
) -> None:
    rules = [
        compile_rule(RuleSpec(name=f"r{at}", when=when, match=match, targets=("t*",)))
        for at, (match, when) in enumerate(wanted)
    ]
    for target in ("t1", "other"):
        seen = Gauge(rules).take(Signal(source="probe", target=target, time_s=0.0, values={}, labels=labels))
        assert [rule.name for rule in seen.rules] == [
            rule.name for rule in rules if rule.takes("probe", target, labels)
        ]
