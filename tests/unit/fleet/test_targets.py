"""Target expressions: against a naive model of sets, and the mistakes that must not choose the wrong hosts."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dogwatch.errors import UsageError
from dogwatch.fleet.inventory.draft import Draft, Place, Setting
from dogwatch.fleet.inventory.inventory import Inventory, merge
from dogwatch.fleet.inventory.ranges import expand, fold
from dogwatch.fleet.targets import choose

HOSTS = [*(f"web{number:02}" for number in range(1, 21)), "db1", "db2", "cache-a", "localhost"]
GROUPS = {"shop": {"web01", "web02", "db1"}, "eu": {"web02", "db1", "db2"}, "none": set()}
RED = {"web03", "db2"}


def inventory() -> Inventory:
    draft = Draft("test")
    place = Place("test")
    for name in HOSTS:
        host = draft.host(name, place)
        assert host is not None
        if name in RED:
            host.labels["colour"] = Setting("red", place)
    for name, hosts in GROUPS.items():
        group = draft.group(name, place)
        for host in sorted(hosts):
            group.hosts[host] = place
    made, problems = merge([draft])
    assert problems == []
    return made


INVENTORY = inventory()
ATOMS = {
    "all": set(HOSTS),
    "*": set(HOSTS),
    "@shop": GROUPS["shop"],
    "@eu": GROUPS["eu"],
    "@none": set(),
    "eu": GROUPS["eu"],
    "colour=red": RED,
    "colour!=red": set(HOSTS) - RED,
    "colour=r*": RED,
    "web*": {name for name in HOSTS if name.startswith("web")},
    "web[03-05,07]": {"web03", "web04", "web05", "web07"},
    "web[01:05:2]": {"web01", "web03", "web05"},
    "cache-[a-a]": {"cache-a"},
    "db?": {"db1", "db2"},
    "web07": {"web07"},
}


@st.composite
def expressions(draw: st.DrawFn, depth: int = 0) -> tuple[str, set[str]]:
    """Return an expression and what the documented rules say of it, worked out the long way."""
    taken: list[set[str]] = []
    away: list[set[str]] = []
    texts = []
    for _ in range(draw(st.integers(1, 3))):
        factors = []
        for _ in range(draw(st.integers(1, 3))):
            if depth < 2 and draw(st.integers(0, 5)) == 0:
                inner, hosts = draw(expressions(depth + 1))
                atom = f"({inner})"
            else:
                atom = draw(st.sampled_from(sorted(ATOMS)))
                hosts = ATOMS[atom]
            factors.append((draw(st.booleans()) and draw(st.booleans()), atom, hosts))
        texts.append("&".join(f"{'!' if negative else ''}{atom}" for negative, atom, _ in factors))
        if len(factors) == 1:
            (away if factors[0][0] else taken).append(factors[0][2])
        else:
            both = set(HOSTS)
            for negative, _, hosts in factors:
                both = {name for name in both if (name in hosts) != negative}
            taken.append(both)
    start = set().union(*taken) if taken else set(HOSTS)
    space = draw(st.sampled_from(["", " "]))
    return f"{space},{space}".join(texts), start - set().union(*away, set())


@given(expressions())
def test_expressions_mean_what_sets_mean(given_: tuple[str, set[str]]) -> None:
    text, expected = given_
    chosen = choose(text, INVENTORY)
    assert set(chosen) == expected
    assert chosen == [name for name in HOSTS if name in expected]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("web99", "there is no host 'web99'"),
        ("all,!web21", "there is no host 'web21'"),
        ("web[19-22]", "there is no host 'web[21-22]'"),
        ("@shp", "there is no group 'shp'"),
        ("color=red", "no host has a label 'color'"),
        ("", "is empty"),
        ("web01,,web02", "character 7"),
        ("(web01", "not closed"),
        ("web01)", "unexpected ')'"),
        ("web01 web02", "unexpected 'web02'"),
        ("&web01", "before '&'"),
        ("!", "something is missing"),
        ("web[1", "not closed"),
        ("(" * 60 + "all" + ")" * 60, "levels"),
    ],
)
def test_mistakes_are_refused(text: str, told: str) -> None:
    with pytest.raises(UsageError) as caught:
        choose(text, INVENTORY)
    assert told in str(caught.value)


def test_hints_name_what_is_near() -> None:
    with pytest.raises(UsageError) as caught:
        choose("@shp", INVENTORY)
    assert caught.value.hint == "did you mean 'shop'?"
    with pytest.raises(UsageError) as caught:
        choose("web*:!web01", INVENTORY)
    assert "," in str(caught.value.hint)


NAMES = st.lists(
    st.builds(
        "".join,
        st.lists(
            st.one_of(
                st.sampled_from(["web", "-", "a", ".example", "x"]), st.from_regex(r"[0-9]{1,3}", fullmatch=True)
            ),
            min_size=1,
            max_size=4,
        ),
    ),
    unique=True,
    max_size=30,
)


@given(NAMES)
def test_folded_names_give_back_the_same_hosts(names: list[str]) -> None:
    folded = fold(names)
    parts, depth = [""], 0
    for char in folded:
        depth += (char == "[") - (char == "]")
        if char == "," and not depth:
            parts.append("")
        else:
            parts[-1] += char
    back = [name for part in parts if part for name in expand(part)]
    assert sorted(back) == sorted(names)


def test_folding_is_what_people_write() -> None:
    assert fold(["web01", "web02", "web03", "web07", "db-1"]) == "web[01-03,07],db-1"
    assert fold(["web08", "web09", "web10", "web11"]) == "web[08-11]"
    assert fold(["rack1-a", "rack2-a"]) == "rack[1-2]-a"
    assert fold(["2001:db8::1"]) == "2001:db8::1"


@pytest.mark.parametrize(
    "text",
    ["web[1-", "web[]", "web[1-9999999]", "web[5-1]", "web[01-100]", "web[a-Z]", "web[1-5:0]", "w[1-999][1-999]"],
)
def test_bad_ranges_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        expand(text)


@pytest.mark.parametrize(
    ("habit", "hint"),
    [
        ("web[01-20]!web07", "ClusterShell's 'a!b' is 'a,!b' here"),
        ("@shop^@eu", "ClusterShell's 'a^b' is '(a,b)&!(a&b)' here"),
        ("shop,&eu", "Ansible's ',&' is '&' here"),
        ("shop:&eu", "Ansible's ':' is ','"),
        ("~web0.*", "globs do"),
        ("web01 web02", "names are parted by commas"),
        ("@eu - @shop", "names are parted by commas"),
    ],
)
def test_habits_of_others_choose_nothing_and_are_explained(habit: str, hint: str) -> None:
    with pytest.raises(UsageError) as caught:
        choose(habit, INVENTORY)
    assert hint in caught.value.hint
