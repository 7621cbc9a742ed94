"""From plain values to blackbox_exporter's structs, as strict and as lenient as its own YAML decoder.

Values are what YAML makes of a document; a `Plain` text is a scalar as it was written, before anything was made of it,
so that `expect: 1.10` stays `1.10`.
"""

from __future__ import annotations

import math
import re
import types
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints
from urllib.parse import urlsplit

import msgspec

from dogwatch.config.section import Fault
from dogwatch.core.component import nearest
from dogwatch.expressions.conditions import ConditionError, compile_condition
from dogwatch.probes.blackbox_format import HeaderValues
from dogwatch.probes.patterns import pattern

Place = tuple[str | int, ...]
_GO_DURATION = re.compile(r"(\d+\.?\d*|\.\d+)(ns|us|µs|μs|ms|s|m|h)")
_SECONDS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_SIZE = re.compile(r"(\d+\.?\d*|\.\d+)([^\d.]*)")
_POWERS = {"": 0, "K": 1, "M": 2, "G": 3, "T": 4, "P": 5, "E": 6}
_TRUE = frozenset(("y", "Y", "yes", "Yes", "YES", "on", "On", "ON", "true", "True", "TRUE"))
_FALSE = frozenset(("n", "N", "no", "No", "NO", "off", "Off", "OFF", "false", "False", "FALSE"))
_INTEGER = re.compile(r"[-+]?(0[xX][0-9a-fA-F]+|0[bB][01]+|0[oO]?[0-7]+|0|[1-9][0-9]*)")
_NULLS = frozenset(("", "~", "null", "Null", "NULL"))
TLS_VERSIONS = {"TLS10": "1.0", "TLS11": "1.1", "TLS12": "1.2", "TLS13": "1.3"}


class Plain(str):
    """A scalar without quotes, as written."""

    __slots__ = ()


class Repeated(dict[str, Any]):
    """A mapping in which keys came more than once. again: those keys."""

    again: tuple[str, ...] = ()


def parse_go_duration(text: str) -> float:
    """Return seconds for `1m30s`, `500ms`, `1.5h`, `0`.

    Raises: ValueError.
    """
    sign, bare = (-1.0, text[1:]) if text.startswith("-") else (1.0, text.removeprefix("+"))
    if bare == "0":
        return 0.0
    parts = _GO_DURATION.findall(bare)
    if not parts or "".join(number + unit for number, unit in parts) != bare:
        raise ValueError(f"'{text}' is not a duration; write it as 5s or 1m30s")
    return sign * sum(float(number) * _SECONDS[unit] for number, unit in parts)


def parse_limit(text: str) -> int:
    """Return bytes for `10MB` or `10MiB` (both 10 × 1024²); 0 for no limit.

    Raises: ValueError.
    """
    sign, bare = (-1, text[1:]) if text.startswith("-") else (1, text.removeprefix("+"))
    if bare == "0":
        return 0
    parts = _SIZE.findall(bare)
    if not parts or "".join(number + unit for number, unit in parts) != bare:
        raise ValueError(f"'{text}' is not a size; write it as 10MB")
    for suffix in ("iB", "B"):
        units = {(power + suffix if power else "B"): 1024**number for power, number in _POWERS.items()}
        if all(unit in units for _number, unit in parts):
            limit = sign * int(sum(float(number) * units[unit] for number, unit in parts))
            return limit if 0 <= limit < 2**63 - 1 else 0
    raise ValueError(f"'{text}' is not a size; write it as 10MB")


def _regex(text: str) -> None:
    try:
        pattern(text)
    except ValueError as error:
        raise ValueError(f"is not a regular expression: {error}") from None


def _cel(text: str) -> None:
    try:
        compile_condition(text, {"body": "dyn"})
    except ConditionError as error:
        raise ValueError(str(error)) from None


def _tls_version(text: str) -> None:
    if text not in TLS_VERSIONS:
        raise ValueError(f"unknown TLS version '{text}'; TLS10, TLS11, TLS12 or TLS13")


def _url(text: str) -> None:
    """Refuse what Go's URL parser refuses; a proxy without a scheme is the usual mistake."""
    if re.search(r"[\x00-\x1f\x7f]", text) or re.search(r"%(?![0-9a-fA-F]{2})", text.partition("?")[0]):
        raise ValueError("is not a URL")
    first = text.partition("?")[0].partition("/")[0]
    if ":" in first and not re.match(r"[A-Za-z][A-Za-z0-9+.\-]*:", text):
        raise ValueError("is not a URL; begin with http:// or https://")
    try:
        parts = urlsplit(text)
        authority = parts.netloc.rpartition("@")[2]
        if " " in authority or (":" in authority.rpartition("]")[2] and not authority.endswith(":")):
            _ = parts.port
        if " " in authority:
            raise ValueError("is not a URL: a host has no spaces")
    except ValueError as error:
        raise ValueError(f"is not a URL: {error}") from None


_CHECKS: Mapping[str, Callable[[str], object]] = {
    "regex": _regex,
    "cel": _cel,
    "duration": parse_go_duration,
    "size": parse_limit,
    "tls version": _tls_version,
    "url": _url,
}


@lru_cache(maxsize=64)
def _fields(kind: type[msgspec.Struct]) -> dict[str, Any]:
    return get_type_hints(kind, include_extras=True)


_SKIP = object()


class Reader:
    """Converts values, and collects every mistake with its place."""

    def __init__(self) -> None:
        self.faults: list[Fault] = []

    def struct(self, kind: type[msgspec.Struct], value: Any, path: Place) -> Any:
        """Return a struct; what could not be read has its default, and there is a fault."""
        if isinstance(value, str) and kind is HeaderValues and not _is_null(value):
            return HeaderValues(values=(str(value),))
        if not isinstance(value, Mapping):
            return self._wrong(value, path, "a mapping")
        known = _fields(kind)
        fields: dict[str, Any] = {}
        for key, one in self._pairs(value, path):
            if key not in known:
                self.faults.append(Fault((*path, key), "unknown option", nearest(key, list(known))))
                continue
            read = self.value(known[key], one, (*path, key))
            if read is not _SKIP:
                fields[key] = read
        return kind(**fields)

    def _pairs(self, value: Mapping[Any, Any], path: Place) -> Iterator[tuple[str, Any]]:
        for key in value.again if isinstance(value, Repeated) else ():
            self.faults.append(Fault((*path, key), "is given twice"))
        for key, one in value.items():
            yield str(key), one

    def value(self, kind: Any, value: Any, path: Place) -> Any:
        """Return a value of a type, or _SKIP where the default stays."""
        origin = get_origin(kind)
        if _is_null(value):
            return _SKIP
        if origin in (Union, types.UnionType):
            return self.value(next(one for one in get_args(kind) if one is not type(None)), value, path)
        if origin is Annotated:
            return self._checked(kind, value, path)
        if origin is tuple:
            return self._list(get_args(kind)[0], value, path)
        if origin is Mapping:
            return self._mapping(get_args(kind)[1], value, path)
        if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
            return self.struct(kind, value, path)
        if kind is Any:
            return _plain(value)
        return self._scalar(kind, value, path)

    def _checked(self, kind: Any, value: Any, path: Place) -> Any:
        base, marker = get_args(kind)
        if marker == "duration" and _is_number(value):
            return self._wrong(value, path, "a duration such as 5s")
        text = self.value(base, value, path)
        if text is _SKIP:
            return _SKIP
        try:
            _CHECKS[marker](text)
        except ValueError as error:
            self.faults.append(Fault(path, str(error)))
            return _SKIP
        return text

    def _list(self, kind: Any, value: Any, path: Place) -> Any:
        if not isinstance(value, list | tuple):
            return self._wrong(value, path, "a list")
        empty = "" if kind is str or get_origin(kind) is Annotated else 0 if kind is int else _SKIP
        read = [self.value(kind, one, (*path, at)) for at, one in enumerate(value)]
        return tuple(empty if one is _SKIP else one for one in read if not (one is _SKIP and empty is _SKIP))

    def _mapping(self, kind: Any, value: Any, path: Place) -> Any:
        if not isinstance(value, Mapping):
            return self._wrong(value, path, "a mapping")
        found: dict[str, Any] = {}
        for key, one in self._pairs(value, path):
            read = self.value(kind, one, (*path, key))
            if read is not _SKIP:
                found[key] = read
            elif kind is str:
                found[key] = ""
        return found

    def _scalar(self, kind: type, value: Any, path: Place) -> Any:
        if isinstance(value, Mapping | list | tuple):
            return self._wrong(value, path, {str: "a text", int: "a number", bool: "true or false"}[kind])
        if kind is str:
            return _text(value)
        if kind is bool:
            text = _text(value)
            if text in _TRUE or text in _FALSE:
                return text in _TRUE
            return self._wrong(value, path, "true or false")
        number = _integer(value)
        return self._wrong(value, path, "a whole number") if number is None else number

    def _wrong(self, value: Any, path: Place, wanted: str) -> Any:
        shown = "a mapping" if isinstance(value, Mapping) else "a list" if isinstance(value, list | tuple) else "this"
        self.faults.append(Fault(path, f"wants {wanted}, not {shown}" if shown != "this" else f"wants {wanted}"))
        return _SKIP


def _is_null(value: Any) -> bool:
    return value is None or (isinstance(value, Plain) and value in _NULLS)


def _is_number(value: Any) -> bool:
    return _integer(value) is not None if isinstance(value, Plain) else isinstance(value, int | float)


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return value.decode("utf-8", "surrogateescape") if isinstance(value, bytes) else str(value)


def _integer(value: Any) -> int | None:
    """Return a whole number, also one written as `2e2`, `0x1F` or `1_000`, without its fraction; None for others."""
    if isinstance(value, bool) or (isinstance(value, str) and not isinstance(value, Plain)):
        return None
    if isinstance(value, int):
        return value
    if isinstance(value, float):
        return int(value) if math.isfinite(value) else None
    text = str(value).replace("_", "")
    if _INTEGER.fullmatch(text):
        bare = text.lstrip("+-")
        octal = len(bare) > 1 and bare.isdigit() and bare[0] == "0"
        return (-1 if text[0] == "-" else 1) * int(bare, 8 if octal else 0)
    if re.fullmatch(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?", text):
        number = float(text)
        return int(number) if math.isfinite(number) else None
    return None


def _plain(value: Any) -> Any:
    """Return a value of no declared type with its scalars made what YAML says they are."""
    if isinstance(value, Mapping):
        return {str(key): _plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    if not isinstance(value, Plain):
        return value
    if value in ("true", "True", "TRUE", "false", "False", "FALSE"):
        return value.lower() == "true"
    number = _integer(value)
    if number is None:
        return str(value)
    return number if _INTEGER.fullmatch(value.replace("_", "")) else float(value.replace("_", ""))
