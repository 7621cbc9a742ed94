"""The permission check: what roles allow, and that limits only ever take away."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from dogwatch.access.permissions import (
    BUILT_IN,
    NOUNS,
    VERBS,
    Permission,
    Rights,
    Role,
    Rule,
    allows,
    everything,
    nothing,
    visible,
)

NAMES = st.sampled_from(["probe", "run", "user", "*"])
ACTS = st.sampled_from(["read", "run", "change", "*"])
LABELS = st.dictionaries(st.sampled_from(["team", "zone"]), st.sampled_from(["a", "b"]), max_size=2)
RULES = st.builds(
    lambda nouns, verbs, labels: Rule(nouns=tuple(nouns), verbs=tuple(verbs), labels=labels),
    st.lists(NAMES, max_size=3),
    st.lists(ACTS, max_size=3),
    LABELS,
)
ROLES = st.lists(RULES, max_size=4).map(lambda rules: [Role(name="r", rules=tuple(rules))])
ASKED = [Permission(noun, verb) for noun in ("probe", "run", "user") for verb in ("read", "run", "change")]


def by_hand(roles: list[Role], permission: Permission, labels: dict[str, str]) -> bool:
    """What a rule table means, written as one would say it."""
    return any(
        ("*" in rule.nouns or permission.noun in rule.nouns)
        and ("*" in rule.verbs or permission.verb in rule.verbs)
        and all(labels.get(key) == value for key, value in rule.labels.items())
        for role in roles
        for rule in role.rules
    )


@given(roles=ROLES, labels=LABELS)
def test_the_compiled_check_is_what_the_rules_say(roles: list[Role], labels: dict[str, str]) -> None:
    rights = Rights(roles)
    for permission in ASKED:
        assert allows(rights, permission, labels) == by_hand(roles, permission, labels)


@given(roles=ROLES, limit=LABELS, labels=LABELS)
def test_a_limit_by_labels_is_both(roles: list[Role], limit: dict[str, str], labels: dict[str, str]) -> None:
    rights, inside = Rights(roles, limit), all(labels.get(key) == value for key, value in limit.items())
    for permission in ASKED:
        assert allows(rights, permission, labels) == (by_hand(roles, permission, labels) and inside)


@given(one=ROLES, two=ROLES, labels=LABELS)
def test_within_is_what_both_allow(one: list[Role], two: list[Role], labels: dict[str, str]) -> None:
    both = Rights(one).within(Rights(two))
    for permission in ASKED:
        expected = by_hand(one, permission, labels) and by_hand(two, permission, labels)
        assert allows(both, permission, labels) == expected


def test_everything_and_nothing_are_told_apart() -> None:
    assert visible(Rights([BUILT_IN["viewer"]]), "probe") is everything
    assert visible(Rights([BUILT_IN["viewer"]]), "user") is nothing
    limited = Rights([Role(name="x", rules=(Rule(nouns=("probe",), labels={"team": "shop"}),))])
    assert limited.restricted("probe")
    # One rule without labels is enough.
    whole = Role(name="y", rules=(Rule(nouns=("probe",)),))
    assert not Rights([Role(name="x", rules=(Rule(nouns=("probe",), labels={"a": "b"}),)), whole]).restricted("probe")


def test_the_stars_are_all_there_is() -> None:
    rights = Rights([BUILT_IN["admin"]])
    assert len(rights.table()) == len(NOUNS) * len(VERBS)
    assert all(sets == [{}] for sets in rights.table().values())
