"""Templates: `{{ CEL }}` in the text of actions, compiled once, filled in when a step begins.

What is filled in is never read again: neither as a template, nor, in shell scripts, as code. `\\{{` is a literal `{{`.
"""

from __future__ import annotations

import datetime
import math
import types
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin

import msgspec

from dogwatch.config.section import Path
from dogwatch.engine.action import Action
from dogwatch.engine.shell import Place, places, quote
from dogwatch.engine.variables import VARIABLES
from dogwatch.errors import PermanentError
from dogwatch.expressions.cel_syntax import ConditionError
from dogwatch.expressions.cel_values import kind_of
from dogwatch.expressions.formula import ConditionFailure, Formula, compile_formula

A = TypeVar("A", bound=Action)
# Whether everything that a formula reads is known by now.
Known = Callable[[Formula], bool]
MAX_FIELD_CHARS = 1024 * 1024
MAX_ACTION_CHARS = 4 * MAX_FIELD_CHARS
_OPEN, _CLOSE, _ESCAPED = "{{", "}}", "\\{{"


class TemplateError(PermanentError):
    """A template that cannot be filled in with these values. The text says which part, and why."""

    code = "template"


class Mistake(msgspec.Struct, frozen=True):
    """What is wrong with a template as written."""

    message: str
    hint: str = ""


class Template:
    """One text. formulas: what it is filled in with. mistakes: it cannot be filled in while it has any.

    whole: it is one formula and nothing else, and so may stand for any value.
    """

    __slots__ = ("_literals", "_places", "formulas", "mistakes", "text", "whole")

    def __init__(self, text: str, *, shell: bool) -> None:
        self.text = text
        self.mistakes: list[Mistake] = []
        self._literals: list[str] = [""]
        self.formulas: list[Formula] = []
        self._places: list[Place | str] = []
        self._read(text)
        gaps = len(self._literals) - 1
        self.whole = gaps == 1 and not shell and not any(part.strip() for part in self._literals)
        if shell and gaps:
            self._places = places(self._literals)
            for place in self._places:
                if isinstance(place, str):
                    hint = "put it in a variable first: value={{ … }}"
                    self.mistakes.append(Mistake(f"nothing can be filled in safely here: {place}", hint))

    @property
    def plain(self) -> bool:
        """Whether there is nothing to fill in."""
        return len(self._literals) == 1

    def _read(self, text: str) -> None:
        at = 0
        while (found := text.find(_OPEN, at)) >= 0:
            if found and text[found - 1] == "\\":
                self._literals[-1] += text[at : found - 1] + _OPEN
                at = found + 2
                continue
            end = _end(text, found + 2)
            if end < 0:
                hint = "write \\{{ where two braces are meant"
                self.mistakes.append(Mistake(f"'{text[found:][:40]}' is not closed by }}}}", hint))
                break
            self._literals[-1] += text[at:found]
            self._literals.append("")
            self._compile(text[found + 2 : end])
            at = end + 2
        self._literals[-1] += text[at:]

    def _compile(self, written: str) -> None:
        try:
            self.formulas.append(compile_formula(written.strip(), VARIABLES))
        except ConditionError as error:
            go = written.lstrip().startswith(".")
            hint = "write \\{{ where two braces are meant" if go else error.hint
            self.mistakes.append(Mistake(f"{{{{ {_cut(written.strip(), 60)} }}}}: {error}", hint))

    def value(self, values: Mapping[str, Any]) -> Any:
        """Return the value of a whole template. Raises: TemplateError."""
        self._usable()
        return _value(self.formulas[0], values)

    def fill(self, values: Mapping[str, Any], known: Known | None = None) -> str:
        """Return the text with everything filled in; what is not known stays as it is written.

        Raises: TemplateError.
        """
        self._usable()
        if self.plain:
            return self._literals[0]
        parts = [self._literals[0]]
        size = 0
        for at, formula in enumerate(self.formulas):
            if known is not None and not known(formula):
                parts += (f"{{{{ {formula.text} }}}}", self._literals[at + 1])
                continue
            text = as_text(_value(formula, values), formula.text)
            if self._places:
                text = _quoted(text, formula, self._places[at])
            parts += (text, self._literals[at + 1])
            size += len(text)
            if size > MAX_FIELD_CHARS:
                raise TemplateError(f"{{{{ {formula.text} }}}} makes a text of more than {MAX_FIELD_CHARS} characters")
        return "".join(parts)

    def _usable(self) -> None:
        if self.mistakes:
            raise TemplateError(self.mistakes[0].message, hint=self.mistakes[0].hint)


def _quoted(text: str, formula: Formula, place: Place | str) -> str:
    if "\0" in text:
        raise TemplateError(f"{{{{ {formula.text} }}}} has a NUL character, which no shell takes")
    assert isinstance(place, Place)
    return quote(text, place)


def _end(text: str, at: int) -> int:
    """Return where `}}` closes the expression that begins at `at`, -1 where nothing does.

    Strings and maps in it may have braces of their own.
    """
    depth = 0
    while at < len(text):
        char = text[at]
        if char in "\"'":
            triple = char * 3
            mark = triple if text.startswith(triple, at) else char
            raw = at > 0 and text[at - 1] in "rR" and not text[at - 2 : at - 1].isalnum()
            at = _string_end(text, at + len(mark), mark, raw=raw)
            continue
        if char == "}" and depth == 0:
            return at if text.startswith(_CLOSE, at) else -1
        depth += {"{": 1, "}": -1}.get(char, 0)
        at += 1
    return -1


def _string_end(text: str, at: int, mark: str, *, raw: bool) -> int:
    while at < len(text) and not text.startswith(mark, at):
        at += 2 if text[at] == "\\" and not raw else 1
    return at + len(mark)


def _value(formula: Formula, values: Mapping[str, Any]) -> Any:
    try:
        return formula.value(values)
    except ConditionFailure as error:
        raise TemplateError(f"{{{{ {formula.text} }}}}: {str(error).removeprefix(formula.text + ': ')}") from None


def as_text(value: Any, name: str) -> str:
    """Return a value as text: lists and maps as JSON.

    Raises: TemplateError for null, which as an empty word could mean too much.
    """
    match value:
        case str():
            return value
        case bool():
            return "true" if value else "false"
        case int():
            return str(value)
        case float() if math.isfinite(value):
            return f"{value:.15g}" if value != int(value) or abs(value) >= 1e15 else str(int(value))
        case datetime.datetime():
            return value.astimezone(datetime.UTC).isoformat().replace("+00:00", "Z")
        case datetime.timedelta():
            return f"{value.total_seconds():g}s"
        case dict() | list() | tuple() | Mapping():
            return _json(value, name)
        case None:
            hint = f'write {{{{ {name} == null ? "" : {name} }}}} where nothing is meant'
            raise TemplateError(f"{{{{ {name} }}}} is null", hint=hint)
    raise TemplateError(f"{{{{ {name} }}}} is {type(value).__name__}, which has no text")


def _json(value: Any, name: str) -> str:
    try:
        return msgspec.json.encode(value).decode()
    except (TypeError, ValueError, RecursionError) as error:
        raise TemplateError(f"{{{{ {name} }}}} cannot be written as JSON: {error}") from None


def _cut(text: str, limit: int) -> str:
    return text if len(text) <= limit else text[:limit] + "…"


@lru_cache(maxsize=4096)
def template(text: str, *, shell: bool = False) -> Template:
    """Return the compiled template of a text, compiled only once."""
    return Template(text, shell=shell)


# -- whole actions ---------------------------------------------------------------------------------------------------


class Field(msgspec.Struct, frozen=True):
    """A text field of an action that is a template. path: below the action. type: the field's, as annotated."""

    path: Path
    type: Any
    template: Template


def fields(action: Action) -> Iterator[Field]:
    """Yield every template of an action. An action inside of it has its own time, and is left out."""
    for path, type_, text, shell in _texts(action):
        found = template(text, shell=shell)
        if not found.plain or found.mistakes:
            yield Field(path, type_, found)


def render(action: A, values: Mapping[str, Any], known: Known | None = None) -> A:
    """Return the action with every template filled in. values: as scope.Scope.values makes them.

    A field that is one whole template keeps its type where the field takes it; elsewhere values become text.
    known: for a plan: what is not known stays a template.
    Raises: TemplateError naming the field.
    """
    renderer = _Renderer(values, known)
    return renderer.struct(action, ())  # type: ignore[no-any-return]


def render_text(text: str, values: Mapping[str, Any]) -> str:
    """Return a text with its templates filled in. Raises: TemplateError."""
    return template(text).fill(values)


def render_json(value: Any, values: Mapping[str, Any]) -> Any:
    """Return a value of lists, maps and text with its templates filled in; a whole template keeps its type."""
    return _Renderer(values).any(value, Any, ())


class _Renderer:
    def __init__(self, values: Mapping[str, Any], known: Known | None = None) -> None:
        self._values, self._known = values, known
        self._left = MAX_ACTION_CHARS

    def struct(self, value: Any, path: Path) -> Any:
        shell = value.shell if isinstance(value, Action) else ()
        changes = {}
        for name, key, type_ in _hints(value.__class__):
            before = getattr(value, name)
            after = self.any(before, type_, (*path, key), shell=name in shell)
            if after is not before:
                changes[name] = after
        return msgspec.structs.replace(value, **changes) if changes else value

    def any(self, value: Any, type_: Any, path: Path, *, shell: bool = False) -> Any:
        """Return the value filled in; the very same one where there is nothing to fill in."""
        if isinstance(value, str):
            return self._text(value, type_, path, shell=shell) if _OPEN in value and not _is_cel(type_) else value
        if isinstance(value, Action):
            return value
        if isinstance(value, msgspec.Struct):
            return self.struct(value, path)
        if isinstance(value, list | tuple):
            items = [self.any(item, _item_type(type_), (*path, at), shell=shell) for at, item in enumerate(value)]
            return type(value)(items) if any(a is not b for a, b in zip(items, value, strict=True)) else value
        if isinstance(value, Mapping):
            new = {key: self.any(item, _item_type(type_), (*path, key), shell=shell) for key, item in value.items()}
            return new if any(new[key] is not item for key, item in value.items()) else value
        return value

    def _text(self, text: str, type_: Any, path: Path, *, shell: bool) -> Any:
        found = template(text, shell=shell)
        try:
            if found.whole and not takes_only_text(type_):
                certain = self._known is None or self._known(found.formulas[0])
                return self._typed(found, type_) if certain else text
            filled = found.fill(self._values, self._known)
        except TemplateError as error:
            raise TemplateError(f"{_dotted(path)}: {error}", hint=error.hint) from None
        self._left -= len(filled)
        if self._left < 0:
            raise TemplateError(f"{_dotted(path)}: the step's text has more than {MAX_ACTION_CHARS} characters in all")
        return filled

    def _typed(self, found: Template, type_: Any) -> Any:
        value = found.value(self._values)
        try:
            # Also proves that it is plain: what CEL made is JSON's, lists and maps of it.
            plain = msgspec.to_builtins(value)
            return msgspec.convert(plain, type_, strict=True)
        except (msgspec.ValidationError, TypeError):
            kind = kind_of(value)
            raise TemplateError(f"{{{{ {found.formulas[0].text} }}}} is {kind}, which does not fit here") from None


def _dotted(path: Path) -> str:
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path).lstrip(".")


def _texts(action: Action) -> Iterator[tuple[Path, Any, str, bool]]:
    for name, key, type_ in _hints(action.__class__):
        for path, below, text in _below(getattr(action, name), type_, (key,)):
            yield path, below, text, name in action.shell


def _below(value: Any, type_: Any, path: Path) -> Iterator[tuple[Path, Any, str]]:
    if isinstance(value, str):
        if _OPEN in value and not _is_cel(type_):
            yield path, type_, value
    elif isinstance(value, Action):
        return
    elif isinstance(value, msgspec.Struct):
        for name, key, below in _hints(value.__class__):
            yield from _below(getattr(value, name), below, (*path, key))
    elif isinstance(value, list | tuple):
        for at, item in enumerate(value):
            yield from _below(item, _item_type(type_), (*path, at))
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _below(item, _item_type(type_), (*path, key))


# -- types -----------------------------------------------------------------------------------------------------------


@lru_cache(maxsize=256)
def _hints(cls: Any) -> tuple[tuple[str, str, Any], ...]:
    """Return (name, key as written, type) of a struct's fields."""
    return tuple((field.name, field.encode_name, field.type) for field in msgspec.structs.fields(cls))


def _options(type_: Any) -> tuple[Any, ...]:
    """Return the alternatives of a type, bare."""
    if get_origin(type_) is Annotated:
        return _options(get_args(type_)[0])
    if get_origin(type_) in (Union, types.UnionType):
        return tuple(one for option in get_args(type_) for one in _options(option))
    return (type_,)


def takes_only_text(type_: Any) -> bool:
    """Return whether a field's type takes text and nothing else, besides being left out."""
    return set(_options(type_)) <= {str, type(None)}


def _is_cel(type_: Any) -> bool:
    """Return whether a field is an expression: what it compares with braces is its own."""
    if get_origin(type_) is Annotated:
        metas = [meta for meta in get_args(type_)[1:] if isinstance(meta, msgspec.Meta)]
        return any(meta.extra and meta.extra.get("cel") for meta in metas) or _is_cel(get_args(type_)[0])
    if get_origin(type_) in (Union, types.UnionType):
        return any(_is_cel(option) for option in get_args(type_))
    return False


def _item_type(type_: Any) -> Any:
    """Return the type of a list's items or a map's values; Any where several are possible."""
    found = [get_args(option) for option in _options(type_) if get_origin(option) is not None and get_args(option)]
    if len(found) == 1:
        inner = found[0]
        return inner[0] if inner[-1] is Ellipsis else inner[-1]
    return Any
