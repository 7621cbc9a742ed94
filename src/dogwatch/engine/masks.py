"""Secrets are replaced in everything that is kept or shown of a run."""

from __future__ import annotations

import base64
import html
import json
from collections.abc import Iterable, Iterator, Mapping
from urllib.parse import quote, quote_plus

from dogwatch.engine.values import Json

MASK = "***"
# What is shorter stands in half of all lines by chance; masking it would only tell what it is.
SHORTEST_CHARS = 4
# A piece of base64 of fewer characters means too little to be told from other text.
_SHORTEST_BASE64 = 6
# The columns at which tools break base64.
_COLUMNS = (64, 76)
Span = tuple[int, int]


class Masker:
    """Replaces secrets in text: as they are, and as base64, hexadecimal, URLs, JSON, HTML and shells write them.

    values: those shorter than SHORTEST_CHARS are left alone. A secret of several lines is masked line by line.
    """

    def __init__(self, values: Iterable[str]) -> None:
        found = {form for value in values for form in _forms(value) if len(form) >= SHORTEST_CHARS}
        # A form that holds another one is masked with it, but its rest would stay: so all are looked for.
        self._forms = sorted(found)
        self._window = 4 * max(map(len, found), default=0)

    def __bool__(self) -> bool:
        return bool(self._forms)

    def mask(self, text: str) -> str:
        """Return the text without secrets."""
        spans = self.spans(text)
        return _replaced(text, spans) if spans else text

    def clean(self, value: Json) -> Json:
        """Return a value of lists, maps and text without secrets, names in maps included."""
        if not self._forms:
            return value
        if isinstance(value, str):
            return self.mask(value)
        if isinstance(value, Mapping):
            return {self.mask(str(key)): self.clean(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [self.clean(item) for item in value]
        if isinstance(value, int | float) and not isinstance(value, bool):
            return MASK if str(value) in self._forms else value
        return value

    def spans(self, text: str) -> list[Span]:
        """Return where secrets are, in order; those that touch or overlap are one."""
        found: list[Span] = []
        for form in self._forms:
            at = text.find(form)
            while at >= 0:
                found.append((at, at + len(form)))
                at = text.find(form, at + 1)
        return joined(found)

    def unsure(self, text: str) -> int:
        """Return how many characters at the end of a text may be part of a secret that what follows would complete.

        Whoever masks text that comes in pieces holds so many back: `mask` of the rest shows nothing of any secret.
        """
        begun = max((_overlap(text, form) for form in self._forms), default=0)
        tail = text[-self._window :] if begun else ""
        cut = len(tail) - begun
        for start, end in self.spans(tail):
            # Never through the middle of a secret that is complete. One that repeats itself without end is let go.
            if start < cut < end:
                return len(tail) - (end if start == 0 and len(text) > len(tail) else start)
        return begun


def joined(spans: list[Span]) -> list[Span]:
    """Return spans in order, those that touch or overlap as one."""
    out: list[Span] = []
    for start, end in sorted(spans):
        if out and start <= out[-1][1]:
            out[-1] = (out[-1][0], max(end, out[-1][1]))
        else:
            out.append((start, end))
    return out


def _replaced(text: str, spans: list[Span]) -> str:
    parts: list[str] = []
    at = 0
    for start, end in spans:
        parts += (text[at:start], MASK)
        at = end
    parts.append(text[at:])
    return "".join(parts)


def _overlap(text: str, form: str) -> int:
    """Return the length of the longest end of the text that is a beginning of the form, but not all of it."""
    tail = text[-(len(form) - 1) :]
    at = tail.find(form[0])
    while at >= 0:
        if form.startswith(tail[at:]):
            return len(tail) - at
        at = tail.find(form[0], at + 1)
    return 0


def _forms(value: str) -> Iterator[str]:
    """Yield what a secret looks like in output."""
    if len(value.strip()) < SHORTEST_CHARS:
        return
    for text in dict.fromkeys((value, value.strip())):
        yield from _base64_forms(text.encode("utf-8", "surrogatepass"))
    lines = [line.strip() for line in value.splitlines()]
    for line in dict.fromkeys([value.strip(), *lines] if len(lines) > 1 else [value, value.strip()]):
        # A line of dashes alone is no secret.
        if (len(line) >= SHORTEST_CHARS and any(char.isalnum() for char in line)) or len(lines) == 1:
            yield from _text_forms(line)


def _text_forms(text: str) -> Iterator[str]:
    yield text
    data = text.encode("utf-8", "surrogatepass")
    for safe in ("", "/"):
        encoded = quote(data, safe=safe)
        yield encoded
        yield encoded.lower() if text.islower() else _lower_escapes(encoded)
    yield quote_plus(data)
    yield json.dumps(text)[1:-1]
    yield json.dumps(text, ensure_ascii=False)[1:-1]
    yield html.escape(text)
    yield text.replace("'", "'\"'\"'")
    yield text.replace("'", "'\\''")
    yield data.hex()
    yield data.hex().upper()


def _lower_escapes(encoded: str) -> str:
    """Return URL-encoded text with its escapes in lower case: %2f."""
    first, *rest = encoded.split("%")
    return first + "".join(f"%{part[:2].lower()}{part[2:]}" for part in rest)


def _base64_forms(data: bytes) -> Iterator[str]:
    """Yield the base64 of a secret, alone and wherever it stands in what is encoded."""
    for encode in (base64.b64encode, base64.urlsafe_b64encode):
        whole = encode(data).decode()
        yield whole
        for width in _COLUMNS:
            if len(whole) > width:
                pieces = (whole[at : at + width] for at in range(0, len(whole), width))
                yield from (piece for piece in pieces if len(piece) >= _SHORTEST_BASE64)
        for offset in range(3):
            shifted = encode(b"\0" * offset + data).decode()
            # Only the characters that are made of the secret's own bits.
            piece = shifted[(offset * 8 + 5) // 6 : (offset + len(data)) * 8 // 6]
            if len(piece) >= _SHORTEST_BASE64:
                yield piece
