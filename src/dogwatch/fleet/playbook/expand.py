"""What of a play holds for one host: variables with where they come from, conditions, operations filled in."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import msgspec

from dogwatch.core.component import Registry
from dogwatch.engine.masks import Masker
from dogwatch.errors import DogwatchError, UsageError
from dogwatch.expressions.conditions import Condition, ConditionFailure, compile_condition
from dogwatch.fleet.inventory.inventory import Inventory
from dogwatch.fleet.login import SECRET_WORDS
from dogwatch.fleet.operations.operation import Context, Operation
from dogwatch.fleet.operations.state import Refused
from dogwatch.fleet.playbook.beside import beside
from dogwatch.fleet.playbook.load import NAMES, as_plain, faults_of, told
from dogwatch.fleet.playbook.model import Entry, Play, Playbook
from dogwatch.fleet.playbook.templates import Engine, TemplateFailure, Values

_NAME_CHARS = 100
_SECRET = re.compile(r"\$\{(file:)?([^}]+)\}")


class Task(msgspec.Struct, frozen=True, kw_only=True):
    """One operation for one host, filled in. index: of the play's entry. handler: it waits to be notified."""

    index: int
    name: str
    operation: Operation
    context: Context
    notify: tuple[str, ...] = ()
    handler: bool = False
    hide: bool = False


class Scope(msgspec.Struct, frozen=True, kw_only=True):
    """Variables of a host in a play. origin: name → where its value comes from. secrets: values that are not shown, and
    can be had again by their names. masked: values that are not shown, of other variables whose names say so.
    """

    values: Values
    origin: Mapping[str, str]
    secrets: Mapping[str, str]
    masked: Sequence[str] = ()


def read_secrets(written: Mapping[str, str], folder: Path, environ: Mapping[str, str]) -> dict[str, str]:
    """Return the values of a play's secrets: `${file:…}`, `${NAME}` of the environment. Raises: UsageError."""
    found: dict[str, str] = {}
    for name, text in written.items():
        match = _SECRET.fullmatch(text.strip())
        if match is None:
            raise UsageError(f"secret '{name}' is not ${{file:PATH}} or ${{NAME}}", hint="secrets are not written down")
        if match[1]:
            path = folder / Path(match[2]).expanduser()
            try:
                found[name] = path.read_text(encoding="utf-8").removesuffix("\n")
            except (OSError, UnicodeDecodeError) as error:
                raise UsageError(f"secret '{name}' cannot be read from {path}: {error}") from None
        elif match[2] in environ:
            found[name] = environ[match[2]]
        else:
            raise UsageError(f"secret '{name}': {match[2]} is not in the environment")
    return found


def host_secrets(inventory: Inventory, host: str) -> dict[str, str]:
    """Return the host's variables of the inventory that are never shown, by their names."""
    return {
        name: str(value)
        for name, value in inventory.variables(host).items()
        if SECRET_WORDS.search(name) and isinstance(value, str | int)
    }


def scope_of(
    play: Play,
    inventory: Inventory,
    host: str,
    engine: Engine,
    *,
    secrets: Mapping[str, str],
    extra: Mapping[str, Any],
    facts: Mapping[str, Any] | None,
) -> Scope:
    """Return the host's variables; the weakest first: defaults, the inventory, vars, secrets, --var."""
    given: dict[str, Any] = {}
    origin: dict[str, str] = {}
    hidden = {**host_secrets(inventory, host), **secrets}
    for name, value in play.defaults.items():
        given[name], origin[name] = value, f"defaults of {play.file}"
    for name, sourced in inventory.sourced(host).items():
        given[name], origin[name] = as_plain(sourced.value), f"{sourced.owner} ({sourced.place})"
    for more, words in ((play.vars, f"vars of {play.file}"), (secrets, "secrets"), (extra, "--var")):
        for name, value in more.items():
            given[name], origin[name] = value, words
    given.update(host=host, groups=list(inventory.groups_of(host)), labels=inventory.labels(host))
    if facts is not None:
        given["facts"] = dict(facts)
    masked = [
        str(value)
        for name, value in (*play.defaults.items(), *play.vars.items(), *extra.items())
        if SECRET_WORDS.search(name) and isinstance(value, str | int)
    ]
    return Scope(values=Values(given, engine), origin=origin, secrets=hidden, masked=masked)


class Expander:
    """Fills in the operations of a play for hosts."""

    def __init__(self, playbook: Playbook, play: Play, operations: Registry[Operation], engine: Engine) -> None:
        self._playbook, self._play, self._operations, self._engine = playbook, play, operations, engine
        self._local: dict[str, bytes] = {}

    def tasks(self, scope: Scope) -> tuple[list[Task], list[str]]:
        """Return the host's tasks, and every mistake in them with file and line."""
        tasks: list[Task] = []
        problems: list[str] = []
        entries = [(entry, False) for entry in self._play.operations] + [(one, True) for one in self._play.handlers]
        for index, (entry, handler) in enumerate(entries):
            try:
                self._expand(index, entry, handler, scope, tasks, problems)
            except (DogwatchError, ConditionFailure) as error:
                problems.append(_told(entry, error))
        return tasks, problems

    def _expand(
        self, index: int, entry: Entry, handler: bool, scope: Scope, tasks: list[Task], problems: list[str]
    ) -> None:
        items: list[Any] = [None]
        if entry.each is not None:
            items = self._engine.fill(entry.each, scope.values)
            if not isinstance(items, list):
                raise TemplateFailure(f"each: gives no list, but {str(items)[:60]!r}")
        for item in items:
            values = scope.values if entry.each is None else scope.values.with_({"item": item})
            if entry.when and not self._holds(entry.when, values, item):
                continue
            filled = self._engine.fill(dict(entry.fields), values)
            context = Context(name="", render=_renderer(self._engine, values), local=self.local)
            operation = self.convert(entry.kind, filled)
            found = [f"{entry.file}:{entry.line}: {one}" for one in faults_of(operation)]
            problems += found
            if not found:
                name = (self._engine.render(entry.name, values).splitlines() or [entry.kind])[0][:_NAME_CHARS]
                name = name if entry.each is None or "{{" in entry.name else f"{name} ({str(item)[:40]})"
                context = msgspec.structs.replace(context, name=name)
                tasks.append(
                    Task(
                        index=index,
                        name=name,
                        operation=operation,
                        context=context,
                        notify=entry.notify,
                        handler=handler,
                        hide=entry.hide,
                    )
                )

    def convert(self, kind: str, fields: Mapping[str, Any]) -> Operation:
        """Return the operation. Raises: Refused where a filled in value is not what the field takes."""
        try:
            return msgspec.convert(dict(fields), self._operations.get(kind), strict=False)
        except (msgspec.ValidationError, ValueError) as error:
            field = str(error).rpartition("`$.")[2].rstrip("`") if "`$." in str(error) else ""
            raise Refused(f"{kind}{f'.{field}' if field else ''}: {told(error)}") from None

    def local(self, name: str) -> bytes:
        """Return a file beside the playbook. Raises: Refused."""
        if name not in self._local:
            path = beside(self._playbook.folder, name, confined=self._playbook.confined)
            try:
                self._local[name] = path.read_bytes()
            except OSError as error:
                where = name if self._playbook.confined else path
                raise Refused(f"{where}: {(error.strerror or str(error)).lower()}") from None
        return self._local[name]

    def _holds(self, when: str, values: Values, item: Any) -> bool:
        plain = values.plain()
        known = {"facts": plain.get("facts", {}), "host": plain["host"], "groups": plain["groups"], "item": item}
        return _condition(when).test({**known, "vars": plain})


@lru_cache(maxsize=256)
def _condition(text: str) -> Condition:
    return compile_condition(text, NAMES)


def _renderer(engine: Engine, values: Values) -> Callable[[str], str]:
    return lambda text: engine.render(text, values)


def _told(entry: Entry, error: Exception) -> str:
    hint = getattr(error, "hint", "")
    return f"{entry.file}:{entry.line}: {entry.name}: {error}{f'; {hint}' if hint else ''}"


def masker_of(secrets: Mapping[str, str]) -> Masker:
    return Masker(secrets.values())


def environment() -> dict[str, str]:
    return dict(os.environ)
