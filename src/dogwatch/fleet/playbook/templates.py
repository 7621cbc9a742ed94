"""Jinja, strict: a name without a value is an error, and templates reach nothing but the values that they are given."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from jinja2 import StrictUndefined, Template, TemplateError, TemplateSyntaxError
from jinja2.exceptions import UndefinedError
from jinja2.runtime import Context, Undefined
from jinja2.sandbox import SandboxedEnvironment
from jinja2.utils import missing

from dogwatch.errors import DogwatchError
from dogwatch.fleet.inventory.lined import Sealed

_DEPTH = 20


class TemplateFailure(DogwatchError):
    """A template cannot be filled in; the text says which and why."""

    code = "template"


class Values:
    """The variables of one host. A value that is a template is filled in when it is asked for."""

    def __init__(self, given: Mapping[str, Any], engine: Engine) -> None:
        self._given = given
        self._engine = engine
        self._filled: dict[str, Any] = {}
        self._open: list[str] = []

    def __contains__(self, name: object) -> bool:
        return name in self._given

    def __getitem__(self, name: str) -> Any:
        if name not in self._filled:
            if name in self._open or len(self._open) > _DEPTH:
                raise TemplateFailure(f"variables refer to each other: {' > '.join([*self._open, name])}")
            self._open.append(name)
            try:
                self._filled[name] = self._engine.fill(self._given[name], self)
            finally:
                self._open.pop()
        return self._filled[name]

    def with_(self, more: Mapping[str, Any]) -> Values:
        return Values({**self._given, **more}, self._engine)

    def plain(self) -> dict[str, Any]:
        """Return every value that can be filled in, for conditions."""
        found: dict[str, Any] = {}
        for name in self._given:
            try:
                found[name] = self[name]
            except TemplateFailure:
                continue
        return found


class _Lazy(Context):
    def resolve_or_missing(self, key: str) -> Any:
        found = super().resolve_or_missing(key)
        if found is not missing and not isinstance(found, Values):
            return found
        values = self.parent.get(" values")
        return values[key] if isinstance(values, Values) and key in values else missing


class Engine:
    """Compiles templates once, for all hosts."""

    def __init__(self) -> None:
        self._environment = SandboxedEnvironment(
            undefined=StrictUndefined, keep_trailing_newline=True, autoescape=False
        )
        self._environment.context_class = _Lazy
        self._environment.policies["json.dumps_kwargs"] = {"sort_keys": False, "ensure_ascii": False}
        self._environment.filters["quote"] = _quote
        self._environment.filters["to_json"] = _to_json
        self._compiled: dict[str, Template] = {}
        self._expressions: dict[str, Callable[..., Any]] = {}

    def fault(self, text: str) -> tuple[str, int]:
        """Return what is wrong with a template as it is written, and on which of its lines; "" where nothing is."""
        try:
            self._environment.parse(text)
        except TemplateSyntaxError as error:
            return f"the template cannot be read: {error.message}", error.lineno
        return "", 0

    def render(self, text: str, values: Values) -> str:
        """Return the text filled in. Raises: TemplateFailure."""
        if "{" not in text:
            return text
        try:
            if text not in self._compiled:
                self._compiled[text] = self._environment.from_string(text)
            return self._compiled[text].render({" values": values})
        except TemplateFailure:
            raise
        except UndefinedError as error:
            raise TemplateFailure(f"{error.message}", hint="defaults: or vars: gives it a value") from None
        except (TemplateError, ArithmeticError, TypeError, ValueError, AttributeError, LookupError) as error:
            raise TemplateFailure(f"{type(error).__name__}: {error}") from None

    def fill(self, value: Any, values: Values) -> Any:
        """Return a value with every text in it filled in; a text that is one `{{ }}` keeps the type of what it gives.

        Raises: TemplateFailure.
        """
        if isinstance(value, str):
            return self._text(value, values) if "{" in value else value
        if isinstance(value, Mapping):
            return {self.fill(key, values): self.fill(below, values) for key, below in value.items()}
        if isinstance(value, list | tuple):
            return [self.fill(below, values) for below in value]
        if isinstance(value, Sealed):
            raise TemplateFailure("a value is sealed by Ansible Vault", hint="secrets: takes it from a file")
        return value

    def _text(self, text: str, values: Values) -> Any:
        inner = text.strip()
        expression = inner[2:-2]
        whole = inner.startswith("{{") and inner.endswith("}}") and "{{" not in expression
        if not whole or expression.startswith("-") or expression.endswith("-"):
            return self.render(text, values)
        try:
            if expression not in self._expressions:
                self._expressions[expression] = self._environment.compile_expression(
                    expression, undefined_to_none=False
                )
            found = self._expressions[expression]({" values": values})
        except TemplateFailure:
            raise
        except UndefinedError as error:
            raise TemplateFailure(f"{error.message}", hint="defaults: or vars: gives it a value") from None
        except (TemplateError, ArithmeticError, TypeError, ValueError, AttributeError, LookupError) as error:
            raise TemplateFailure(f"{type(error).__name__}: {error}") from None
        if isinstance(found, Undefined):
            return self.render(text, values)  # raises, and says what has no value
        return found


def _quote(value: object) -> str:
    import shlex

    return shlex.quote(str(value))


def _to_json(value: object, indent: int | None = None) -> str:
    return json.dumps(value, indent=indent, ensure_ascii=False)
