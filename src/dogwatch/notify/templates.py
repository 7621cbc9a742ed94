"""Texts of messages: small Jinja templates, sandboxed and strict. A template that fails never loses a message."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from dogwatch.notify.message import Message, iso_time

if TYPE_CHECKING:
    from jinja2 import Template

# A template is a few lines, and so is what it makes.
MAX_TEMPLATE = 8 * 1024
MAX_TEXT = 32 * 1024
_CUT = " […]"


class TemplateError(ValueError):
    """The template is wrong, or asks for what a message has not."""


def variables(message_id: str, message: Message, created_s: float) -> dict[str, Any]:
    """Return what templates may read."""
    return {
        "id": message_id,
        "type": message.type,
        "title": message.title,
        "text": message.text,
        "severity": message.severity,
        "data": message.data,
        "labels": message.labels,
        "url": message.url,
        "time": iso_time(created_s),
    }


def compile_template(text: str) -> Callable[[Mapping[str, Any]], str]:
    """Return what fills the template in.

    Raises: TemplateError; so does what it returns.
    """
    if len(text) > MAX_TEMPLATE:
        raise TemplateError(f"is longer than {MAX_TEMPLATE} characters")
    template = _compiled(text)

    def fill(values: Mapping[str, Any]) -> str:
        out, length = [], 0
        try:
            for piece in template.generate(**values):
                out.append(piece)
                length += len(piece)
                if length > MAX_TEXT:
                    break
        except Exception as error:  # noqa: BLE001 - a template can raise whatever the values' own methods raise
            raise TemplateError(f"{type(error).__name__}: {error}") from None
        return cut("".join(out))

    return fill


@lru_cache(maxsize=256)
def _compiled(text: str) -> Template:
    # Imported here: most configurations have no template.
    from jinja2 import StrictUndefined, TemplateSyntaxError
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    environment = ImmutableSandboxedEnvironment(
        undefined=StrictUndefined, autoescape=False, keep_trailing_newline=False
    )
    try:
        return environment.from_string(text)
    except TemplateSyntaxError as error:
        raise TemplateError(f"{error.message} (line {error.lineno})") from None


def cut(text: str, limit: int = MAX_TEXT) -> str:
    """Return text of at most `limit` characters."""
    return text if len(text) <= limit else text[: limit - len(_CUT)] + _CUT
