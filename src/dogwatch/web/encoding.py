"""JSON that is always proper UTF-8, whatever text it is given.

Text from outside is replaced where it enters, but a plugin, a program's name or a path may still hold a lone surrogate
(that is how Python keeps bytes it cannot decode), and one of them must not cost a whole answer.
"""

from __future__ import annotations

from typing import Any

import msgspec
from litestar import Response
from litestar.serialization import default_serializer
from litestar.types import Serializer


def proper(text: str) -> str:
    """Return text with every lone surrogate replaced by U+FFFD."""
    return text if text.isascii() else text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def _clean(value: Any) -> Any:
    if isinstance(value, str):
        return proper(value)
    if isinstance(value, dict):
        return {_clean(key): _clean(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_clean(item) for item in value]
    return value


def encode_json(value: object, hook: Serializer = str) -> bytes:
    """Return value as JSON. hook: turns what JSON has no form for into what it has."""
    try:
        return msgspec.json.encode(value, enc_hook=hook)
    except UnicodeEncodeError:
        return msgspec.json.encode(_clean(msgspec.to_builtins(value, enc_hook=hook)))


class SafeResponse(Response[Any]):
    """An answer whose text cannot fail to be encoded."""

    def render(self, content: Any, media_type: str, enc_hook: Serializer = default_serializer) -> bytes:
        if isinstance(content, bytes | str) or "json" not in media_type:
            return super().render(content, media_type, enc_hook)
        return encode_json(content, enc_hook)
