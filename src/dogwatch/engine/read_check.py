"""What expressions and templates of a job read: names that do not exist, steps that need not have run, secrets."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

import msgspec

from dogwatch.config.section import Fault, Path
from dogwatch.core.component import nearest
from dogwatch.engine.action import Action
from dogwatch.engine.spec import JobSpec, StepSpec
from dogwatch.engine.templates import Template, template
from dogwatch.engine.variables import RUN_PARTS, STEP_PARTS, TRIGGER_PARTS, VARIABLES
from dogwatch.expressions.cel_syntax import ConditionError
from dogwatch.expressions.conditions import compile_condition
from dogwatch.expressions.formula import Reading, compile_formula, readings

_NOUNS = {"params": "parameter", "secrets": "secret", "env": "variable of env"}


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """Where in a job something is read.

    roots: the variables that are there. before: the steps that have ended by then; None where none has begun.
    open: it is kept in the clear, so that no secret may be read.
    """

    job: JobSpec
    steps: Mapping[str, StepSpec]
    roots: frozenset[str]
    before: frozenset[str] = frozenset()
    step: str = ""
    open: bool = False

    @property
    def names(self) -> Mapping[str, Sequence[str]]:
        """The parts of each variable, by its name."""
        return {
            "params": tuple(self.job.parameters),
            "secrets": tuple(self.job.secrets),
            "env": tuple(self.job.env),
            "run": RUN_PARTS,
            "trigger": TRIGGER_PARTS,
        }


def condition_faults(text: str, place: Place, path: Path) -> Iterator[Fault]:
    """Find what is wrong with a condition."""
    try:
        compile_condition(text, VARIABLES)
    except ConditionError as error:
        yield Fault(path, _located(error), error.hint)
    else:
        yield from reading_faults(readings(text), place, path)


def formula_faults(text: str, place: Place, path: Path) -> Iterator[Fault]:
    """Find what is wrong with an expression of any type."""
    try:
        found = compile_formula(text, VARIABLES)
    except ConditionError as error:
        yield Fault(path, _located(error), error.hint)
    else:
        yield from reading_faults(found.readings, place, path)


def text_faults(text: str, place: Place, path: Path) -> Iterator[Fault]:
    """Find what is wrong with a text that may be a template."""
    if "{{" in text:
        yield from template_faults(template(text), place, path)


def template_faults(found: Template, place: Place, path: Path) -> Iterator[Fault]:
    for mistake in found.mistakes:
        # `steps.build-image` is a difference of two names.
        dashed = [name for name in place.steps if "-" in name and f"steps.{name}" in mistake.message]
        yield Fault(path, mistake.message, f'write steps["{dashed[0]}"]' if dashed else mistake.hint)
    for formula in found.formulas:
        yield from reading_faults(formula.readings, place, path)


def _located(error: ConditionError) -> str:
    return f"{error} (at character {error.position + 1})" if error.position else str(error)


def reading_faults(found: Iterable[Reading], place: Place, path: Path) -> Iterator[Fault]:
    """Find what an expression reads that is not there."""
    told: set[tuple[str, str]] = set()
    for reading in found:
        wrong = _wrong(reading.path, place)
        if wrong is not None and wrong not in told:
            told.add(wrong)
            yield Fault(path, *wrong)


def _wrong(path: Path, place: Place) -> tuple[str, str] | None:
    root, rest = str(path[0]), path[1:]
    if root not in VARIABLES:
        return None  # bound by a macro: a name that is nobody's was told by the compiler
    if root not in place.roots:
        return _absent(root, place)
    if place.open and root == "secrets":
        return "a secret would be kept in the clear here", "read it in the step that needs it"
    if not rest:
        hidden = place.open and root == "params" and any(one.secret for one in place.job.parameters.values())
        return (
            ("a secret parameter would be kept in the clear here", "name the parameters one by one") if hidden else None
        )
    if root == "result":
        return _wrong_output(place.step, str(rest[0]), list(place.steps[place.step].action.outputs))
    if root == "steps":
        return _wrong_step(str(rest[0]), rest[1:], place)
    known = place.names.get(root)
    name = str(rest[0])
    if known is None:
        return None
    if name not in known:
        noun = _NOUNS.get(root)
        if noun is None:
            return f"'{root}' has no '{name}'", nearest(name, list(known))
        return f"unknown {noun} '{name}'", nearest(name, list(known)) if known else f"the job has no {root}"
    if place.open and root == "params" and place.job.parameters[name].secret:
        return f"the secret parameter '{name}' would be kept in the clear here", ""
    return None


def _absent(root: str, place: Place) -> tuple[str, str]:
    if root in ("item", "index"):
        return f"'{root}' is there only inside of a map", ""
    if root == "result":
        return "'result' is there only in the outputs of a step", ""
    here = ", ".join(sorted(place.roots))
    return f"'{root}' cannot be read here", f"what can be: {here}"


def _wrong_step(name: str, rest: Path, place: Place) -> tuple[str, str] | None:
    step = place.steps.get(name)
    if step is None:
        # `steps.build-image` is a difference of two names.
        longer = [other for other in place.steps if other.startswith(f"{name}-")]
        hint = f'write steps["{longer[0]}"]' if longer else nearest(name, list(place.steps))
        return f"unknown step '{name}'", hint
    if name == place.step:
        return f"the step '{name}' cannot read itself", ""
    if name not in place.before:
        return f"reads the step '{name}', which need not have run by then", f"add '{name}' to its needs"
    if rest and rest[0] not in STEP_PARTS:
        hint = nearest(str(rest[0]), list(STEP_PARTS))
        if rest[0] in output_names(step) or "*" in step.action.outputs:
            hint = f"did you mean 'outputs.{rest[0]}'?"
        return f"a step has no '{rest[0]}'", hint
    if len(rest) > 1 and rest[0] == "outputs":
        return _wrong_output(name, str(rest[1]), [*step.action.outputs, *step.outputs])
    return None


def _wrong_output(step: str, name: str, known: list[str]) -> tuple[str, str] | None:
    if name in known or "*" in known:
        return None
    return f"the step '{step}' has no output '{name}'", nearest(name[:100], known) if known else "it has none"


def output_names(step: StepSpec) -> list[str]:
    """Return the outputs that a step is known to have."""
    return [*(name for name in step.action.outputs if name != "*"), *step.outputs]


def reads_secret(text: str, job: JobSpec) -> str:
    """Return the secret that a template reads ("secrets.token", "params.password"), "" where it reads none."""
    if "{{" not in text:
        return ""
    for formula in template(text).formulas:
        for reading in formula.readings:
            root, name = reading.path[0], reading.path[1] if len(reading.path) > 1 else ""
            if root == "secrets":
                return f"secrets.{name}" if name else "secrets"
            if root == "params":
                secret = [one for one, parameter in job.parameters.items() if parameter.secret]
                if name in secret or (not name and secret):
                    return f"params.{name}" if name else "params"
    return ""


def actions_of(step: StepSpec) -> Iterator[tuple[Path, Action]]:
    """Yield the action of a step and the one inside of it, where it is a map; paths are below the step."""
    yield (step.action.kind,), step.action
    inner = getattr(step.action, "do", None)
    if isinstance(inner, Action):
        yield (step.action.kind, inner.kind), inner
