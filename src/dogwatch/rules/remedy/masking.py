"""Secrets in what machines tell of themselves: they are masked by how they look, as nobody knows them all. Pure."""

from __future__ import annotations

import re

_MASK = "***"
_WORD = (
    r"(?:pass(?:word|wd|phrase|(?![a-z]))|pwd|secret|token|(?:api|access|private)[-_]?key|credentials?|auth(?![a-z]))"
)
# `--db-password=x`, `DB_PASSWORD: x`, `"token": "x"`, `--password x`; the name goes before, its value is masked.
_PAIR = re.compile(
    rf"((?:^|[\s\"'&?;,{{(\-_.]|[A-Za-z0-9])(?i:{_WORD})[A-Za-z0-9_\-]*[\"']?\s*[=:]\s*)"
    r"(\"[^\"\n]*\"|'[^'\n]*'|[^\s\"'&;,)}]+)"
)
_OPTION = re.compile(
    rf"((?:^|\s)--?[A-Za-z0-9\-_]*(?i:{_WORD})[A-Za-z0-9\-_]*[ \t]+)(\"[^\"\n]*\"|'[^'\n]*'|[^\s\-]\S*)"
)
_HEADER = re.compile(r"((?i:authorization|proxy-authorization|cookie|set-cookie|x-api-key)\"?\s*[:=]\s*)([^\r\n]+)")
_BEARER = re.compile(r"((?i:bearer|basic)\s+)([A-Za-z0-9._~+/=\-]{8,})")
_URL = re.compile(r"(\b[a-z][a-z0-9+.\-]*://[^\s/:@]*:)([^\s/@]+)(@)")
_KEY = re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)", re.DOTALL)
_KNOWN = re.compile(
    r"\b(?:AKIA[0-9A-Z]{16}|gh[pousr]_[A-Za-z0-9]{20,}|glpat-[A-Za-z0-9_\-]{16,}|xox[abprs]-[A-Za-z0-9\-]{10,}"
    r"|eyJ[A-Za-z0-9_\-]{8,}\.[A-Za-z0-9_\-]{8,}\.[A-Za-z0-9_\-]{8,})"
)


def masked(text: str) -> str:
    """Return the text with what looks like a secret replaced; rather too much than too little."""
    text = _KEY.sub(_MASK, text)
    text = _HEADER.sub(rf"\1{_MASK}", text)
    text = _URL.sub(rf"\1{_MASK}\3", text)
    text = _BEARER.sub(rf"\1{_MASK}", text)
    text = _PAIR.sub(rf"\1{_MASK}", text)
    text = _OPTION.sub(rf"\1{_MASK}", text)
    return _KNOWN.sub(_MASK, text)
