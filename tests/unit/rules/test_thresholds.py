"""The decider: thresholds, windows, grace, pause and maintenance, and what holds for every history."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dogwatch.core.values import Status, Transition
from dogwatch.rules.thresholds import Observation, Policy, Seen, State, Window, decode, encode, step

LETTERS = {
    ".": Seen.GOOD,
    "~": Seen.POOR,
    "x": Seen.BAD,
    "P": Seen.PAUSE,
    "R": Seen.RESUME,
    "M": Seen.MAINTENANCE_ON,
    "m": Seen.MAINTENANCE_OFF,
}
SHORT = {
    Status.PENDING: "?",
    Status.UP: "u",
    Status.DEGRADED: "g",
    Status.DOWN: "D",
    Status.PAUSED: "p",
    Status.MAINTENANCE: "m",
}


def walk(policy: Policy, seen: Iterable[Seen], *, elapsed_s: float = 15.0) -> tuple[list[State], list[Transition]]:
    state, states, transitions = State(), [], []
    for number, what in enumerate(seen):
        state, transition = step(policy, state, Observation("t", what, elapsed_s, "why"), 100.0 + number)
        states.append(state)
        transitions += [transition] if transition else []
    return states, transitions


def path(policy: Policy, letters: str, *, elapsed_s: float = 15.0) -> str:
    states, _ = walk(policy, (LETTERS[letter] for letter in letters), elapsed_s=elapsed_s)
    return "".join(SHORT[state.status] for state in states)


@pytest.mark.parametrize(
    ("policy", "letters", "expected"),
    [
        (Policy(), "..xx.xxx.x..", "uuuuuuuDDDDu"),
        (Policy(failures=1, successes=1), "x.x.", "DuDu"),
        (Policy(), "xxx", "??D"),
        (Policy(), "xx.", "??u"),
        (Policy(window=Window(failures=3, of=5), successes=1), ".x.x.x.....", "uuuuuDuuuuu"),
        (Policy(window=Window(failures=2, of=3)), "x.x", "?uD"),
        (Policy(degraded_after=2), ".~~.~..", "uuggggu"),
        (Policy(), "~.~", "ggg"),
        (Policy(), "~..~", "ggug"),
        (Policy(), ".~xxx~~", "ugggDDg"),
        (Policy(grace_s=60), "xxxxxxx", "??????D"),
        (Policy(grace_s=60), "x.xxx", "?uuuD"),
        (Policy(), ".xxPx.Rxx.", "uuuppp???u"),
        (Policy(), ".MxxxPRm", "ummmmpm?"),
        (Policy(), ".Mxxxm", "ummmmD"),
        (Policy(), ".Mm", "umu"),
        (Policy(), "R.m", "?uu"),
    ],
)
def test_paths(policy: Policy, letters: str, expected: str) -> None:
    assert path(policy, letters) == expected


def test_the_reason_says_what_was_counted() -> None:
    _, transitions = walk(Policy(), [Seen.GOOD] + [Seen.BAD] * 3 + [Seen.GOOD] * 2 + [Seen.PAUSE])
    assert [transition.reason for transition in transitions] == [
        "it answers: why",
        "3 failures in a row: why",
        "2 successes in a row: why",
        "why",
    ]
    _, transitions = walk(Policy(window=Window(failures=2, of=4)), [Seen.BAD, Seen.GOOD, Seen.BAD])
    assert transitions[-1].reason == "2 of the newest 3 attempts failed: why"


def test_since_is_the_time_of_the_transition_and_a_wall_clock_that_jumps_only_stamps() -> None:
    state, _ = step(Policy(grace_s=60), State(), Observation("t", Seen.BAD, 0.0), 5000.0)
    for now_s in (9_999_999.0, -5.0, 4.0):
        state, transition = step(Policy(grace_s=60), state, Observation("t", Seen.BAD, 1.0), now_s)
        assert transition is None
    state, transition = step(Policy(grace_s=60), state, Observation("t", Seen.GOOD, 1.0), 7.0)
    assert transition is not None
    assert state.since_s == transition.time_s == 7.0


def test_a_healthy_target_allocates_nothing() -> None:
    states, _ = walk(Policy(), [Seen.GOOD] * 5)
    assert states[-1] is states[-2]


POLICIES = st.builds(
    Policy,
    failures=st.integers(1, 4),
    successes=st.integers(1, 4),
    degraded_after=st.integers(1, 3),
    grace_s=st.sampled_from([0.0, 40.0]),
    window=st.none() | st.tuples(st.integers(1, 4), st.integers(0, 4)).map(lambda p: Window(failures=p[0], of=sum(p))),
)
ATTEMPTS = st.lists(st.sampled_from([Seen.GOOD, Seen.POOR, Seen.BAD]), max_size=60)
ANYTHING = st.lists(st.sampled_from(list(Seen)), max_size=60)


@given(policy=POLICIES, seen=ANYTHING)
def test_transitions_chain_and_match_the_states(policy: Policy, seen: list[Seen]) -> None:
    states, transitions = walk(policy, seen)
    before = Status.PENDING
    for transition in transitions:
        assert transition.before is before
        assert transition.after is not before
        before = transition.after
    assert before is (states[-1].status if states else Status.PENDING)


@given(policy=POLICIES, seen=ANYTHING, cut=st.integers(0, 60))
def test_a_restart_changes_nothing(policy: Policy, seen: list[Seen], cut: int) -> None:
    whole, _ = walk(policy, seen)
    state = State()
    for number, what in enumerate(seen):
        if number == cut:
            restored = decode(encode(state))
            assert restored == state
            state = restored or State()
        state, _ = step(policy, state, Observation("t", what, 15.0, "why"), 100.0 + number)
    assert not whole or whole[-1] == state


@given(policy=POLICIES, seen=ATTEMPTS)
def test_it_never_goes_down_below_its_threshold_and_is_never_late(policy: Policy, seen: list[Seen]) -> None:
    """Against a decision made anew from the whole history at every step."""
    states, _ = walk(policy, seen)
    counted: list[Seen] = []
    waited_s, expected_down = 0.0, False
    for number, what in enumerate(seen):
        waited_s += 15.0
        proved = any(earlier is not Seen.BAD for earlier in seen[:number])
        if what is not Seen.BAD or proved or policy.grace_s == 0 or waited_s > policy.grace_s:
            counted.append(what)
        size = policy.window.of if policy.window else policy.failures
        need = policy.window.failures if policy.window else policy.failures
        failing = sum(one is Seen.BAD for one in counted[-size:]) >= need
        tail = counted[-policy.successes :]
        recovered = len(tail) == policy.successes and Seen.BAD not in tail and not (policy.window and failing)
        if what is Seen.BAD and failing and counted:
            expected_down = True
        elif what is not Seen.BAD and recovered:
            expected_down = False
        assert (states[number].status is Status.DOWN) == expected_down


@given(content=st.binary(max_size=50))
def test_a_damaged_state_starts_anew(content: bytes) -> None:
    assert decode(content) is None or isinstance(decode(content), State)


def test_a_state_of_another_version_starts_anew() -> None:
    assert decode(encode(State(bad=2)).replace(b'"v":1', b'"v":2')) is None
