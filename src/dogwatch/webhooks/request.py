"""A request as it came, and what its body says."""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import parse_qsl

import msgspec

from dogwatch.engine.values import Json
from dogwatch.errors import DogwatchError

_MAX_FIELDS = 1000
_TEXT_TYPES = ("text/", "application/xml", "application/soap+xml")


class RawRequest(msgspec.Struct, frozen=True, kw_only=True):
    """headers: lower-case names, values as the bytes came (latin-1). repeated: names that came more than once, whose
    value here is the first. body: exactly as it came: that is what was signed.
    """

    headers: Mapping[str, str] = {}
    repeated: frozenset[str] = frozenset()
    query: Mapping[str, str] = {}
    body: bytes = b""
    remote: str = ""


class Malformed(DogwatchError):
    """The body is not what it says. status: what is answered."""

    code = "usage"

    def __init__(self, message: str, *, status: int = 400) -> None:
        super().__init__(message)
        self.status = status


class Payload(msgspec.Struct, frozen=True, kw_only=True):
    """value: decoded JSON, a form's fields, or the text. text: the body as text."""

    value: Json
    text: str


def read_payload(request: RawRequest) -> Payload:
    """Return what the body says, by its content type.

    JSON; a form, whose one field `payload` is JSON (GitHub, Slack); other text as it is. Without a content type JSON is
    tried first.
    Raises: Malformed.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    encoding = request.headers.get("content-encoding", "identity").strip().lower()
    if encoding not in ("", "identity"):
        raise Malformed("compressed bodies are not taken", status=415)
    body = request.body
    text = body.decode("utf-8", "replace")
    if not body.strip():
        return Payload(value=None, text=text)
    if kind == "application/json" or kind.endswith("+json"):
        return Payload(value=_json(body, "the body"), text=text)
    if kind == "application/x-www-form-urlencoded":
        return Payload(value=_form(text), text=text)
    if kind.startswith(_TEXT_TYPES) or kind.endswith("+xml"):
        return Payload(value=text, text=text)
    if kind:
        raise Malformed(f"bodies of type {kind[:80]} are not taken", status=415)
    try:
        return Payload(value=_json(body, "the body"), text=text)
    except Malformed:
        return Payload(value=text, text=text)


def _json(body: bytes, noun: str) -> Json:
    try:
        return msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, ValueError) as error:
        raise Malformed(f"{noun} is not JSON: {error}") from None
    except RecursionError:
        raise Malformed(f"{noun} is nested too deep") from None


def _form(text: str) -> Json:
    try:
        pairs = parse_qsl(text, keep_blank_values=True, max_num_fields=_MAX_FIELDS)
    except ValueError:
        raise Malformed(f"the form has more than {_MAX_FIELDS} fields") from None
    if [name for name, _ in pairs] == ["payload"]:
        return _json(pairs[0][1].encode("utf-8", "replace"), "the field payload")
    fields: dict[str, Json] = {}
    for name, value in pairs:
        known = fields.get(name)
        fields[name] = value if known is None else [*known, value] if isinstance(known, list) else [known, value]
    return fields
