"""The `rules` section: conditions over what the watch sees, and what follows when they hold."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from dogwatch.config.section import Fault, Section
from dogwatch.core.component import Registry, nearest
from dogwatch.core.units import Expression, Seconds
from dogwatch.engine.action import Action
from dogwatch.expressions.cel_syntax import ConditionError
from dogwatch.notify.message import Severity
from dogwatch.rules.amounts import at_least
from dogwatch.rules.remedy.spec import BudgetSpec, DoSpec, Mode, RemedySpec, check_do
from dogwatch.rules.remedy.text import text_of, version_of
from dogwatch.rules.when import When, compile_when

MAX_NAME_CHARS = 100
MAX_GROUP_LABELS = 10
# Finds what only other sections can say.
Across = Callable[[list[Any], Callable[[Section[Any]], Any]], Iterable[Fault]]
# What the thresholds of probes are called where they stand beside rules.
DOWN_RULE = "target-down"


class RuleSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One rule: while `when` holds for a target, an incident is open.

    name: by which its incidents are known. when: a CEL condition over the newest values of a target, and over time:
    `avg(host.cpu_ratio, "5m") > 0.9`. for: how long it must hold. targets: names with * and ?, of the targets that it
    looks at; none for all that have its values. match: labels that they carry. by: labels; targets of the same values
    are one, with one incident. at_least: how many of them must hold, for a quorum: a number, or a share such as 50%.
    resolve: the condition that ends it; default: that `when` no longer holds. keep_firing: how long it goes on after it
    ended. missing: what targets without values mean: keep what was, or clear it. severity: info, warning, error or
    critical. labels: of its incidents, beside those of the target. summary: one line for people; default: the condition
    with its values. notify: names of destinations; default: those of `incidents`. escalation: the name of one of
    `incidents`. enabled: false keeps a rule without effect. do: what is done about it, step by step. mode: plan says
    what would be done, approve asks before, auto does it; default: plan. budget: how much may be done. remedy: the
    other bounds.
    """

    name: str
    when: Expression
    for_: Annotated[Seconds, Meta(description="How long the condition must hold.")] = msgspec.field(
        default=0.0, name="for"
    )
    targets: tuple[str, ...] = ()
    match: Mapping[str, str] = {}
    by: tuple[str, ...] = ()
    at_least: int | str = 1
    resolve: Expression | None = None
    keep_firing: Seconds = 0.0
    missing: Literal["keep", "clear"] = "keep"
    severity: Severity = "warning"
    labels: Mapping[str, str] = {}
    summary: str = ""
    notify: tuple[str, ...] = ()
    escalation: str = ""
    enabled: bool = True
    do: tuple[DoSpec, ...] = ()
    mode: Mode | None = None
    budget: BudgetSpec | None = None
    remedy: RemedySpec | None = None


class Rule(msgspec.Struct, frozen=True, kw_only=True):
    """A rule ready to be asked. source: "probe", "host" or "alert", whose targets it looks at. quorum, share: one of
    both. version: of its text. plain: the values that it reads, where its answer follows from these of one target alone
    and so stays while they do; None where it does not. paths: all values that it reads; alone: all are of the target
    that it is asked of. over: it reads values over time, so that it is asked as time passes, too.
    """

    spec: RuleSpec
    when: When
    resolve: When | None
    source: str
    quorum: int = 1
    share: float = 0.0
    version: str = ""
    plain: frozenset[str] | None = None
    paths: frozenset[str] = frozenset()
    alone: bool = True
    over: bool = False

    @property
    def name(self) -> str:
        return self.spec.name

    def takes(self, source: str, target: str, labels: Mapping[str, str]) -> bool:
        """Return whether it looks at a target."""
        spec = self.spec
        if source != self.source or any(labels.get(key) != value for key, value in spec.match.items()):
            return False
        return not spec.targets or any(fnmatch.fnmatchcase(target, pattern) for pattern in spec.targets)

    def group(self, target: str, labels: Mapping[str, str]) -> str:
        """Return what of its incidents the target belongs to: itself, or the values of the labels."""
        by = self.spec.by
        return ",".join(f"{name}={labels.get(name, '')}" for name in by) if by else target

    def wanted(self, known: int) -> int:
        """Return how many of so many known targets must hold."""
        return max(1, -int(-known * self.share // 1)) if self.share else self.quorum

    @property
    def whens(self) -> tuple[When, ...]:
        return (self.when,) if self.resolve is None else (self.when, self.resolve)


def compile_rule(spec: RuleSpec) -> Rule:
    """Raises: ConditionError, ValueError (at_least)."""
    when = compile_when(spec.when)
    resolve = compile_when(spec.resolve) if spec.resolve is not None else None
    quorum, share = at_least(spec.at_least)
    whens = (when,) if resolve is None else (when, resolve)
    source = next((one for one in ("probe", "host") if reads(when, f"{one}.")), "alert")
    paths = frozenset(path for one in whens for path in paths_of(one))
    alone = all(path.startswith(f"{source}.") for path in paths)
    over = any(one.over for one in whens)
    # With a `resolve` of its own, a condition may hold though its alert has ended.
    plain = paths if alone and not over and resolve is None and source != "alert" else None
    return Rule(
        spec=spec, when=when, resolve=resolve, source=source, quorum=quorum, share=share,
        version=version_of(text_of(spec)), plain=plain, paths=paths, alone=alone, over=over,
    )  # fmt: skip


def paths_of(when: When) -> list[str]:
    """Return the names of the values that a condition reads."""
    return [*when.newest.values(), *(over.path for over in when.over.values())]


def reads(when: When, prefix: str) -> bool:
    return any(path.startswith(prefix) for path in paths_of(when))


def check_rules(specs: Sequence[RuleSpec]) -> Iterator[Fault]:
    """Find every mistake that types cannot say, in the order of the rules."""
    names: dict[str, int] = {}
    for at, spec in enumerate(specs):
        yield from _name_faults(at, spec.name, names)
        yield from _condition_faults(at, spec)
        yield from _group_faults(at, spec)
        yield from check_do(spec.do, spec.budget, spec.remedy, spec.mode, (at,))


def _name_faults(at: int, name: str, names: dict[str, int]) -> Iterator[Fault]:
    if not name.strip() or name != name.strip():
        yield Fault((at, "name"), "a name must not be empty, nor begin or end with space")
    elif len(name) > MAX_NAME_CHARS or not name.isprintable():
        yield Fault((at, "name"), f"a name is at most {MAX_NAME_CHARS} printable characters")
    if name.startswith(("probe:", "service:")):
        yield Fault((at, "name"), "'probe:' and 'service:' begin the names of what probes and services do")
    if name == DOWN_RULE:
        yield Fault((at, "name"), f"'{DOWN_RULE}' is what the thresholds of probes are called", "take another name")
    if name in names:
        yield Fault((at, "name"), f"the name '{name}' is used twice, first by rules[{names[name]}]")
    names.setdefault(name, at)


def _condition_faults(at: int, spec: RuleSpec) -> Iterator[Fault]:
    compiled: dict[str, When] = {}
    for field, text in (("when", spec.when), ("resolve", spec.resolve)):
        if text is None:
            continue
        try:
            compiled[field] = compile_when(text)
        except ConditionError as error:
            place = f" (at character {error.position + 1})" if error.position else ""
            yield Fault((at, field), f"{error}{place}", error.hint)
    if len(compiled) == 2 and reads(compiled["resolve"], "probe.") and not reads(compiled["when"], "probe."):
        yield Fault((at, "resolve"), "reads values of probes, and 'when' none of them")
    elif len(compiled) == 2 and reads(compiled["resolve"], "host.") and _alone(compiled["when"]):
        yield Fault((at, "resolve"), "reads values of hosts, and 'when' only alerts of others")


def _alone(when: When) -> bool:
    """Return whether it reads alerts of others only."""
    return not reads(when, "probe.") and not reads(when, "host.")


def _group_faults(at: int, spec: RuleSpec) -> Iterator[Fault]:
    try:
        at_least(spec.at_least)
    except ValueError as error:
        yield Fault((at, "at_least"), str(error))
    if spec.at_least != 1 and not spec.by:
        yield Fault((at, "at_least"), "there is one target in each incident", "write by: [label], too")
    if len(spec.by) > MAX_GROUP_LABELS:
        yield Fault((at, "by"), f"at most {MAX_GROUP_LABELS} labels")
    if len(set(spec.by)) != len(spec.by):
        yield Fault((at, "by"), "names a label twice")


def rules_section(
    notify: Section[Any] | None = None,
    incidents: Section[Any] | None = None,
    actions: Registry[Action] | None = None,
    doing: Across | None = None,
) -> Section[list[RuleSpec]]:
    """Return the section. notify: of the destinations; incidents: of the escalations; for checking against them.

    actions: the kinds that `do` may name. doing: checks what is done against other sections.
    """

    def across(specs: list[RuleSpec], get: Callable[[Section[Any]], Any]) -> Iterator[Fault]:
        destinations = list(get(notify)) if notify is not None else []
        escalations = [one.name for one in get(incidents).escalations] if incidents is not None else []
        for at, spec in enumerate(specs):
            for place, name in enumerate(spec.notify):
                if notify is not None and name not in destinations:
                    hint = nearest(name, destinations) if destinations else "write it below notify"
                    yield Fault((at, "notify", place), f"unknown destination '{name}'", hint)
            if incidents is not None and spec.escalation and spec.escalation not in escalations:
                hint = nearest(spec.escalation, escalations) if escalations else "write it below incidents.escalations"
                yield Fault((at, "escalation"), f"unknown escalation '{spec.escalation}'", hint)
            for place, name in enumerate(spec.remedy.escalate if spec.remedy is not None else ()):
                if notify is not None and name not in destinations:
                    hint = nearest(name, destinations) if destinations else "write it below notify"
                    yield Fault((at, "remedy", "escalate", place), f"unknown destination '{name}'", hint)
        if doing is not None:
            yield from doing(specs, get)

    return Section(
        key="rules",
        type=list[RuleSpec],
        doc="Conditions over what the watch sees; while one holds, an incident is open.",
        default=list,
        families={Action: actions} if actions is not None else {},
        check=check_rules,
        across=across,
    )
