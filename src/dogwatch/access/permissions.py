"""What may be done: permissions, roles, and the check, compiled so that it costs next to nothing. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import msgspec

# What there is to see and to change. Features add their nouns here, so that a role that misspells one is refused.
NOUNS: Mapping[str, str] = {
    "probe": "targets, their history, live results",
    "host": "hosts and their samples",
    "job": "jobs: definitions of runs",
    "run": "runs, their steps and output",
    "schedule": "schedules and their fires",
    "worker": "workers and queues",
    "rule": "rules and their backtests",
    "incident": "incidents, silences, maintenance windows",
    "location": "what other places see, and what they decide together",
    "notification": "channels and what was sent",
    "webhook": "endpoints and deliveries",
    "fleet": "inventory, facts, operations, plans",
    "log": "logs",
    "kube": "Kubernetes",
    "pipeline": "pipelines and artifacts",
    "release": "releases",
    "supply": "software and licences",
    "forecast": "forecasts",
    "report": "reports and the daily inspection",
    "program": "Dogwatch itself: status, reloads, findings, settings, its own metrics",
    "user": "users",
    "token": "API tokens of others; one's own need nothing",
    "role": "roles and what they allow",
    "audit": "the audit trail",
}
VERBS: Mapping[str, str] = {
    "read": "see",
    "run": "start, run now",
    "change": "pause, resume, acknowledge, edit, reload",
    "create": "make new ones",
    "delete": "remove",
    "cancel": "end what runs",
    "approve": "approve or reject",
}


class Permission(msgspec.Struct, frozen=True):
    """One kind of thing and what is done to it."""

    noun: str
    verb: str

    def __str__(self) -> str:
        return f"{self.noun}:{self.verb}"


class Rule(msgspec.Struct, frozen=True, kw_only=True):
    """What a role allows.

    nouns: `probe`, `run`…, or `*`. verbs: `read`, `run`, `change`, `create`, `delete`, `cancel`, `approve`, or `*`.
    labels: only what carries all of these labels; none for everything.
    """

    nouns: tuple[str, ...] = ("*",)
    verbs: tuple[str, ...] = ("read",)
    labels: dict[str, str] = {}


class Role(msgspec.Struct, frozen=True, kw_only=True):
    """A named list of rules."""

    name: str
    rules: tuple[Rule, ...]


_OPERATED = (
    "probe",
    "host",
    "job",
    "run",
    "schedule",
    "worker",
    "rule",
    "incident",
    "notification",
    "webhook",
    "fleet",
    "log",
    "kube",
    "pipeline",
    "release",
    "supply",
    "forecast",
    "report",
)
_SEEN = (*_OPERATED, "program")
BUILT_IN: Mapping[str, Role] = {
    role.name: role
    for role in (
        Role(name="viewer", rules=(Rule(nouns=_SEEN, verbs=("read",)),)),
        Role(
            name="operator",
            rules=(
                Rule(nouns=_SEEN, verbs=("read",)),
                Rule(nouns=_OPERATED, verbs=("run", "change", "create", "cancel", "approve")),
            ),
        ),
        Role(name="admin", rules=(Rule(nouns=("*",), verbs=("*",)),)),
    )
}
_Labels = tuple[tuple[str, str], ...]
Filter = Callable[[Mapping[str, str]], bool]


def everything(_labels: Mapping[str, str]) -> bool:
    return True


def nothing(_labels: Mapping[str, str]) -> bool:
    return False


class Rights:
    """What somebody may do, compiled from roles. within: a further limit that all of it is under (a token's scope).

    A permission maps to None where it holds for everything, else to the sets of labels of which one must be carried.
    """

    __slots__ = ("_allowed", "_filters", "_whole", "roles")

    def __init__(self, roles: Iterable[Role], labels: Mapping[str, str] | None = None) -> None:
        self.roles: tuple[str, ...] = ()
        self._allowed: dict[tuple[str, str], tuple[_Labels, ...] | None] = {}
        self._filters: dict[tuple[str, str], Filter] = {}
        self._whole: dict[tuple[tuple[str, str], ...], bool] = {}
        names = []
        limit = dict(labels or {})
        for role in roles:
            names.append(role.name)
            for rule in role.rules:
                self._add(rule, limit)
        self.roles = tuple(names)

    def _add(self, rule: Rule, limit: Mapping[str, str]) -> None:
        wanted = {**rule.labels, **limit}
        if any(wanted[key] != value for key, value in rule.labels.items()):
            return  # the limit asks for one value and the rule for another: nothing carries both
        labels = tuple(sorted(wanted.items()))
        for noun in NOUNS if "*" in rule.nouns else rule.nouns:
            for verb in VERBS if "*" in rule.verbs else rule.verbs:
                before = self._allowed.get((noun, verb), ())
                self._allowed[noun, verb] = None if before is None or not labels else (*before, labels)

    def within(self, other: Rights) -> Rights:
        """Return the rights that both give: a token can never do more than its owner can now."""
        found = Rights(())
        found.roles = self.roles
        for key in self._allowed.keys() & other._allowed.keys():
            one, two = self._allowed[key], other._allowed[key]
            if one is None or two is None:
                found._allowed[key] = two if one is None else one
                continue
            both = [{**dict(a), **dict(b)} for a in one for b in two if _agree(dict(a), dict(b))]
            if both:
                found._allowed[key] = tuple(tuple(sorted(labels.items())) for labels in both)
        return found

    def may(self, permission: Permission) -> bool:
        """Return whether it holds for anything at all."""
        return (permission.noun, permission.verb) in self._allowed

    def filter(self, noun: str, verb: str = "read") -> Filter:
        """Return which labels things must carry; `everything` and `nothing` are told apart by identity."""
        key = (noun, verb)
        found = self._filters.get(key)
        if found is None:
            found = self._filters[key] = self._compile(key)
        return found

    def _compile(self, key: tuple[str, str]) -> Filter:
        if key not in self._allowed:
            return nothing
        sets = self._allowed[key]
        if sets is None:
            return everything
        if len(sets) == 1 and len(sets[0]) == 1:
            ((name, value),) = sets[0]
            return lambda labels: labels.get(name) == value
        return lambda labels: any(all(labels.get(name) == value for name, value in wanted) for wanted in sets)

    def whole(self, pairs: tuple[tuple[str, str], ...]) -> bool:
        """Return whether all of these, as (noun, verb), hold for everything. Remembered."""
        found = self._whole.get(pairs)
        if found is None:
            found = self._whole[pairs] = all(self.filter(noun, verb) is everything for noun, verb in pairs)
        return found

    def restricted(self, *nouns: str) -> bool:
        """Return whether some of these nouns are not seen whole."""
        return any(self.filter(noun) is not everything for noun in nouns)

    def table(self) -> dict[str, list[dict[str, str]]]:
        """Return `noun:verb` → the label sets that it holds for; an empty set is everything."""
        return {
            f"{noun}:{verb}": [dict(one) for one in sets] if sets is not None else [{}]
            for (noun, verb), sets in sorted(self._allowed.items())
        }


def _agree(one: Mapping[str, str], two: Mapping[str, str]) -> bool:
    return all(two.get(key, value) == value for key, value in one.items())


def allows(rights: Rights, permission: Permission, labels: Mapping[str, str] = {}) -> bool:
    """Return whether it may be done to a thing with these labels."""
    return rights.filter(permission.noun, permission.verb)(labels)


def visible(rights: Rights, noun: str) -> Filter:
    """Return the filter that lists, counts, searches, events and metrics of a noun go through."""
    return rights.filter(noun, "read")
