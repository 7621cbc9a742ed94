"""Reads a playbook and tells every mistake in it at once, with file and line."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, get_type_hints

import msgspec

from dogwatch.core.component import Registry, nearest
from dogwatch.core.units import parse_duration
from dogwatch.errors import ConfigError, Problem, UsageError
from dogwatch.expressions.conditions import ConditionError, compile_condition
from dogwatch.fleet.inventory.lined import Lined, read_yaml
from dogwatch.fleet.operations.operation import Operation
from dogwatch.fleet.operations.state import Refused
from dogwatch.fleet.playbook.beside import beside
from dogwatch.fleet.playbook.model import Entry, Play, Playbook, Watched
from dogwatch.fleet.playbook.templates import Engine
from dogwatch.fleet.rollout import Rollout, parse_amount, parse_batches

# What conditions read, with their CEL types.
NAMES: Mapping[str, str] = {"vars": "map", "facts": "map", "host": "string", "groups": "list", "item": "dyn"}
_PLAY = (
    "name", "hosts", "become", "become_user", "defaults", "vars", "secrets", "batches", "max_fail", "approval",
    "probes", "operations", "handlers",
)  # fmt: skip
_ENTRY = ("name", "when", "notify", "each", "hide")


def load_playbook(path: Path, operations: Registry[Operation], engine: Engine, *, confined: bool = False) -> Playbook:
    """Return the playbook of a file. confined: somebody sent it, and it may read only what came with it.

    Raises: ConfigError with every mistake.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        told = "is not UTF-8" if isinstance(error, UnicodeDecodeError) else (error.strerror or str(error)).lower()
        raise UsageError(f"cannot read {path}: {told}") from None
    file = path.name if confined else str(path)
    return read_playbook(file, text, path.parent, operations, engine, confined=confined)


def read_playbook(
    file: str, text: str, folder: Path, operations: Registry[Operation], engine: Engine, *, confined: bool = False
) -> Playbook:
    """Return the playbook that a text says. folder: of its files. Raises: ConfigError with every mistake."""
    root, problems = read_yaml(file, text)
    reader = _Reader(file, folder, operations, engine, problems, confined)
    plays = [reader.play(one) for one in (root if isinstance(root, list) else [root])] if not problems else []
    if problems:
        raise ConfigError(problems)
    found = tuple(play for play in plays if play is not None)
    return Playbook(file=file, folder=folder, plays=found, confined=confined)


class _Reader:
    def __init__(
        self,
        file: str,
        folder: Path,
        operations: Registry[Operation],
        engine: Engine,
        problems: list[Problem],
        confined: bool,
    ) -> None:
        self._file, self._folder, self._operations, self._engine = file, folder, operations, engine
        self._problems = problems
        self._confined = confined
        self._facts = False

    def play(self, value: Any) -> Play | None:
        if not isinstance(value, Lined):
            self._fault(1, "expected a play: hosts:, operations:", "one mapping, or a list of them")
            return None
        self._facts = False
        self._known(value, _PLAY, "")
        for name in ("hosts", "operations"):
            if name not in value:
                self._fault(value.line, f"'{name}' is missing")
        handlers = self._entries(value, "handlers", frozenset(), {})
        names = [one.name for one in handlers]
        for name in {name for name in names if names.count(name) > 1}:
            self._fault(value.lines.get("handlers", 0), f"two handlers are called '{name}'")
        operations = self._entries(value, "operations", frozenset(names), {})
        batches, max_fail = self._text(value, "batches"), self._text(value, "max_fail")
        if self._confined and value.get("secrets"):
            told = "a playbook that was sent along has no secrets: those of the daemon are not the sender's to read"
            self._fault(value.lines["secrets"], told, "name it in the daemon's configuration: fleet.playbooks")
        return Play(
            name=self._text(value, "name") or self._file,
            hosts=self._text(value, "hosts"),
            file=self._file,
            line=value.line,
            operations=operations,
            handlers=handlers,
            become=self._typed(value, "become", bool | None, None),
            become_user=self._text(value, "become_user"),
            defaults=self._mapping(value, "defaults"),
            vars=self._mapping(value, "vars"),
            secrets={name: str(below) for name, below in self._mapping(value, "secrets").items()},
            rollout=self._rollout(value, batches, max_fail),
            batches=batches,
            max_fail=max_fail,
            approval=self._typed(value, "approval", bool, False),
            probes=self._watched(value),
            uses_facts=self._facts,
        )

    def _entries(self, play: Lined, key: str, handlers: frozenset[str], _: Mapping[str, Any]) -> tuple[Entry, ...]:
        listed = play.get(key) or []
        if not isinstance(listed, list):
            self._fault(play.lines[key], f"'{key}' must be a list")
            return ()
        found = [self._entry(one, handlers, handler=key == "handlers") for one in listed]
        return tuple(one for one in found if one is not None)

    def _entry(self, value: Any, handlers: frozenset[str], *, handler: bool) -> Entry | None:
        if not isinstance(value, Lined):
            self._fault(0, f"expected an operation, such as `file: {{path: …}}`; got {str(value)[:40]!r}")
            return None
        kinds = [key for key in value if key not in _ENTRY]
        if len(kinds) != 1:
            known = [key for key in kinds if self._operations.find(str(key)) is not None]
            others = [key for key in kinds if key not in known]
            if known and others:
                for key in others:
                    self._fault(value.lines[key], f"unknown option '{key}'", nearest(str(key), _ENTRY))
            else:
                told = f"has several: {', '.join(map(str, kinds))}" if kinds else "names none"
                self._fault(value.line, f"an operation is of one kind; this one {told}")
            return None
        kind = str(kinds[0])
        line = value.lines.get(kinds[0], value.line)
        type_ = self._operations.find(kind)
        if type_ is None:
            self._fault(line, f"unknown operation '{kind}'", nearest(kind, self._operations.kinds()))
            return None
        fields = self._fields(type_, value[kinds[0]], line)
        when = self._text(value, "when")
        if when:
            self._facts = self._facts or "facts" in when
            try:
                compile_condition(when, NAMES)
            except ConditionError as error:
                self._fault(value.lines["when"], f"when: {error}", error.hint)
        notify = self._listed(value, "notify")
        for name in notify:
            if handler:
                self._fault(value.lines["notify"], "a handler notifies no other")
            elif name not in handlers:
                self._fault(value.lines["notify"], f"there is no handler '{name}'", nearest(name, sorted(handlers)))
        each = value.get("each")
        if each is not None and not isinstance(each, list | str):
            self._fault(value.lines["each"], "'each' must be a list, or a template that gives one")
        self._templates(each, value.lines.get("each", line), "each")
        return Entry(
            name=self._text(value, "name") or _name_of(kind, fields),
            kind=kind,
            fields=fields,
            file=self._file,
            line=value.line,
            when=when,
            notify=notify,
            each=each,
            hide=self._typed(value, "hide", bool, False),
        )

    def _fields(self, type_: type[Operation], value: Any, line: int) -> Mapping[str, Any]:
        """Check an operation's fields as far as they are no templates."""
        if not isinstance(value, Lined):
            if type_.short and isinstance(value, str):
                value, given = Lined(line), value
                value[type_.short], value.lines[type_.short] = given, line
            elif value is None:
                value = Lined(line)
            else:
                self._fault(line, f"{type_.kind}: expected a mapping", f"known: {', '.join(type_.__struct_fields__)}")
                return {}
        self._known(value, type_.__struct_fields__, f"{type_.kind}.")
        hints = get_type_hints(type_)
        plain = True
        for field in msgspec.structs.fields(type_):
            if field.name not in value:
                if field.required:
                    self._fault(value.line or line, f"{type_.kind}: '{field.name}' is missing")
                    plain = False
                continue
            at = value.lines.get(field.name, line)
            if self._templates(value[field.name], at, f"{type_.kind}.{field.name}"):
                plain = False
                continue
            try:
                msgspec.convert(as_plain(value[field.name]), hints[field.name], strict=False)
            except (msgspec.ValidationError, ValueError) as error:
                self._fault(at, f"{type_.kind}.{field.name}: {told(error)}")
                plain = False
        if plain and not set(value) - set(type_.__struct_fields__):
            self._checked(type_, value, line)
        self._sources(type_, value, line)
        return {str(key): as_plain(below) for key, below in value.items()}

    def _checked(self, type_: type[Operation], value: Lined, line: int) -> None:
        operation = msgspec.convert({key: as_plain(below) for key, below in value.items()}, type_, strict=False)
        for field, message, hint in operation.faults():
            self._fault(value.lines.get(field, line), f"{type_.kind}.{field}: {message}", hint)

    def _sources(self, type_: type[Operation], value: Lined, line: int) -> None:
        """A file beside the playbook must be there, and be a template where it is one."""
        src = value.get("src")
        if "src" not in getattr(type_, "local_files", ()) or not isinstance(src, str) or "{" in src:
            return
        at = value.lines.get("src", line)
        try:
            path = beside(self._folder, src, confined=self._confined)
        except Refused as error:
            self._fault(at, f"{type_.kind}.src: {error}")
            return
        try:
            data = path.read_bytes()
        except OSError as error:
            where = src if self._confined else path
            self._fault(at, f"{type_.kind}.src: {where}: {(error.strerror or str(error)).lower()}")
            return
        if type_.kind == "template":
            text = data.decode(errors="replace")
            self._facts = self._facts or "facts" in text
            fault, number = self._engine.fault(text)
            if fault:
                self._problems.append(Problem(fault, file=src if self._confined else str(path), line=number))

    def _templates(self, value: Any, line: int, name: str) -> bool:
        """Check the templates in a value; return whether there are any."""
        if isinstance(value, str):
            if "{{" not in value and "{%" not in value:
                return False
            self._facts = self._facts or "facts" in value
            fault, _ = self._engine.fault(value)
            if fault:
                self._fault(line, f"{name}: {fault}")
            return True
        if isinstance(value, Mapping):
            lines = getattr(value, "lines", {})
            found = [self._templates(below, lines.get(key, line), name) for key, below in value.items()]
            return any(found)
        if isinstance(value, list):
            found = [self._templates(below, line, name) for below in value]
            return any(found)
        return False

    def _rollout(self, play: Lined, batches: str, max_fail: str) -> Rollout:
        amounts: tuple[Any, ...] = ()
        allowed = None
        try:
            amounts = parse_batches(batches)
        except UsageError as error:
            self._fault(play.lines["batches"], f"batches: {error}", error.hint)
        try:
            allowed = parse_amount(max_fail) if max_fail else None
        except UsageError as error:
            self._fault(play.lines["max_fail"], f"max_fail: {error}", error.hint)
        return Rollout(batches=amounts, max_fail=allowed)

    def _watched(self, play: Lined) -> Watched | None:
        value = play.get("probes")
        if value is None:
            return None
        if not isinstance(value, Lined):
            self._fault(play.lines["probes"], "probes: expected a mapping", "probes: {match: 'host={{ host }}'}")
            return None
        self._known(value, ("match", "settle"), "probes.")
        settle_s = 60.0
        try:
            settle_s = parse_duration(str(value.get("settle", "60s")))
        except ValueError as error:
            self._fault(value.lines["settle"], f"probes.settle: {error}")
        match = self._listed(value, "match") or ("host={{ host }}",)
        for one in match:
            if "=" not in one:
                self._fault(value.lines["match"], f"probes.match: '{one}' is not label=value")
        return Watched(match=match, settle_s=settle_s)

    def _text(self, value: Lined, name: str) -> str:
        found = value.get(name)
        if found is None:
            return ""
        if isinstance(found, list) and name == "batches":
            return ",".join(map(str, found))
        if isinstance(found, list | dict):
            self._fault(value.lines[name], f"'{name}' must be text")
            return ""
        return str(found).lower() if isinstance(found, bool) else str(found)

    def _listed(self, value: Lined, name: str) -> tuple[str, ...]:
        found = value.get(name)
        if found is None:
            return ()
        listed = found if isinstance(found, list) else [found]
        if any(isinstance(one, list | dict) for one in listed):
            self._fault(value.lines[name], f"'{name}' must be a name or a list of names")
            return ()
        return tuple(map(str, listed))

    def _mapping(self, value: Lined, name: str) -> dict[str, Any]:
        found = value.get(name)
        if found is None:
            return {}
        if not isinstance(found, Lined):
            self._fault(value.lines[name], f"'{name}' must be a mapping")
            return {}
        for key in found:
            if not str(key).isidentifier():
                self._fault(found.lines.get(key, 0), f"{name}: '{key}' cannot be the name of a variable")
        self._templates(found, value.lines[name], name)
        return {str(key): as_plain(below) for key, below in found.items()}

    def _typed(self, value: Lined, name: str, type_: Any, default: Any) -> Any:
        if name not in value:
            return default
        try:
            return msgspec.convert(value[name], type_, strict=True)
        except msgspec.ValidationError as error:
            self._fault(value.lines[name], f"{name}: {told(error)}")
            return default

    def _known(self, value: Lined, known: tuple[str, ...], where: str) -> None:
        for key in value:
            if key not in known:
                self._fault(value.lines.get(key, value.line), f"{where}{key}: unknown option", nearest(str(key), known))

    def _fault(self, line: int, message: str, hint: str = "") -> None:
        self._problems.append(Problem(message, file=self._file, line=line, hint=hint))


def _name_of(kind: str, fields: Mapping[str, Any]) -> str:
    for name in ("path", "name", "run", "key", "user"):
        if isinstance(fields.get(name), str):
            # Cut when it is filled in: half a template is none.
            return f"{kind} {fields[name].strip()}".strip()
    return kind


def as_plain(value: Any) -> Any:
    """Return a value of the reader as plain mappings and lists."""
    if isinstance(value, Mapping):
        return {key: as_plain(below) for key, below in value.items()}
    return [as_plain(below) for below in value] if isinstance(value, list) else value


def told(error: Exception) -> str:
    """Return what msgspec says of a value, without the place: that is told beside it."""
    return str(error).partition(" - at `")[0].lower().replace("`", "'")


def faults_of(operation: Operation) -> Iterator[str]:
    """Yield what is wrong with an operation whose fields are filled in."""
    for field, message, hint in operation.faults():
        yield f"{operation.kind}.{field}: {message}{f'; {hint}' if hint else ''}"
