"""The transforms that change columns and choose records."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import repeat
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from msgspec import Meta

from dogwatch.core.units import Secret
from dogwatch.logs.rows import ABSENT, OWN, Book, Rows
from dogwatch.logs.splice import Touch
from dogwatch.logs.transform import Step, Transform
from dogwatch.logs.transforms.blot import EMAIL, Blot, Blots, blot_out, grouped, masking

if TYPE_CHECKING:
    import polars as pl

Faults = Iterable[tuple[tuple[str | int, ...], str, str]]
Detector = Literal[
    "email", "ipv4", "ipv6", "card", "bearer", "jwt", "aws_key", "token", "password", "url_credentials", "private_key"
]
DETECTORS: Mapping[str, str] = {
    "email": EMAIL,
    "ipv4": r"\b(?:(?:25[0-5]|2[0-4]\d|1?\d?\d)\.){3}(?:25[0-5]|2[0-4]\d|1?\d?\d)\b",
    "card": r"\b(?:4\d{3}|5[1-5]\d{2}|2[2-7]\d{2}|3[47]\d{2}|6\d{3})[ -]?\d{4}[ -]?\d{4}[ -]?\d{3,4}\b",
    "bearer": r"(?i:\bbearer\s+)[A-Za-z0-9._~+/=-]{8,}",
    "jwt": r"\beyJ[A-Za-z0-9_-]{5,}\.[A-Za-z0-9_-]{5,}\.[A-Za-z0-9_-]*",
    "aws_key": r"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b",
    "private_key": r"-----BEGIN [A-Z ]*PRIVATE KEY-----(?s:.*?-----END [A-Z ]*PRIVATE KEY-----)?",
    "ipv6": r"\b(?:[0-9A-Fa-f]{1,4}:){7}[0-9A-Fa-f]{1,4}\b|(?:\b[0-9A-Fa-f]{1,4}(?::[0-9A-Fa-f]{1,4}){0,6})?::"
    r"(?:[0-9A-Fa-f]{1,4}(?::[0-9A-Fa-f]{1,4}){0,6}\b)",
    # Of GitHub, GitLab, Slack, Stripe, Google, npm, PyPI, SendGrid, OpenAI and others that mark theirs.
    "token": r"\b(?:gh[pousr]_[A-Za-z0-9]{36,}|github_pat_[A-Za-z0-9_]{22,}|glpat-[A-Za-z0-9_-]{20,}|"
    r"xox[abeoprs]-[A-Za-z0-9-]{10,}|[rs]k_(?:live|test)_[A-Za-z0-9]{16,}|AIza[A-Za-z0-9_-]{35}|npm_[A-Za-z0-9]{36}|"
    r"pypi-[A-Za-z0-9_-]{32,}|SG\.[A-Za-z0-9_-]{16,}\.[A-Za-z0-9_-]{16,}|sk-[A-Za-z0-9_-]{20,}|"
    r"dop_v1_[a-f0-9]{64}|hv[sb]\.[A-Za-z0-9_-]{24,})",
    "password": r"(?i:(?P<keep>\b(?:password|passwd|pwd|secret|api[_-]?key|access[_-]?token|client[_-]?secret)"
    r"[\"']?\s*[=:]\s*[\"']?))[^\s\"'&,;}]+",
    "url_credentials": r"(?P<keep>\b[a-z][a-z0-9+.-]{1,20}://)[^\s/:@]+:[^\s/@]+@",
}


def _reserved(names: Iterable[str], path: str) -> Faults:
    for name in names:
        if name.startswith("@") or not name:
            yield (path,), f"'{name}' cannot be a column of yours", ""


class SetTransform(Transform, frozen=True, kw_only=True):
    """Sets columns to fixed values. fields: name → value."""

    kind: ClassVar[str] = "set"
    short: ClassVar[str] = "fields"
    fields: Mapping[str, str | int | float | bool]

    def faults(self) -> Faults:
        return _reserved(self.fields, "fields")

    def open(self) -> Step:
        return _Set(self.fields)


class _Set:
    reads_lines = False

    def __init__(self, fields: Mapping[str, object]) -> None:
        self._fields = fields
        self.writes = tuple(fields)
        self.counts: dict[str, int] = {}

    def touch(self) -> Touch:
        return Touch(adds=self._fields)

    def apply_rows(self, rows: Rows, book: Book) -> Rows:  # noqa: ARG002
        for name, value in self._fields.items():
            if name not in OWN:
                rows.put(name, repeat(value))
                rows.added += (str(value),)
        return rows

    def apply(self, frame: pl.DataFrame) -> pl.DataFrame:
        import polars as pl

        return frame.with_columns(pl.lit(value).alias(name) for name, value in self._fields.items())


class RenameTransform(Transform, frozen=True, kw_only=True):
    """Renames columns; one that is not there is left alone, one that has the new name already is replaced.

    fields: old name → new name.
    """

    kind: ClassVar[str] = "rename"
    short: ClassVar[str] = "fields"
    fields: Mapping[str, str]

    def faults(self) -> Faults:
        yield from _reserved([*self.fields, *self.fields.values()], "fields")
        if len(set(self.fields.values())) < len(self.fields):
            yield ("fields",), "gives two columns one name", ""

    def open(self) -> Step:
        return _Rename(self.fields)


class _Rename:
    reads_lines = False

    def __init__(self, fields: Mapping[str, str]) -> None:
        self._fields = fields
        self.writes = tuple(fields.values())
        self.counts: dict[str, int] = {}

    def touch(self) -> Touch:
        return Touch(shuns=frozenset(self._fields))

    def apply_rows(self, rows: Rows, book: Book) -> Rows:  # noqa: ARG002
        columns = {new: column for old, new in self._fields.items() if (column := rows.column(old)) is not None}
        there = {new for new, column in columns.items() if any(value is not ABSENT for value in column)}
        for old, new in self._fields.items():
            if new in there and old in rows.shape.attributes:
                rows.put(old, repeat(ABSENT))
        for new in there:
            if new not in OWN:
                rows.put(new, columns[new])
        return rows

    def apply(self, frame: pl.DataFrame) -> pl.DataFrame:
        there = {old: new for old, new in self._fields.items() if old in frame.columns}
        replaced = [new for new in there.values() if new in frame.columns and new not in there]
        return frame.drop(replaced).rename(there)


class RemoveTransform(Transform, frozen=True, kw_only=True):
    """Removes columns. fields: their names; one that is not there is no mistake."""

    kind: ClassVar[str] = "remove"
    short: ClassVar[str] = "fields"
    fields: tuple[str, ...]

    def faults(self) -> Faults:
        return _reserved(self.fields, "fields")

    def open(self) -> Step:
        return _Remove(self.fields)


class _Remove:
    reads_lines = False
    writes = ()

    def __init__(self, fields: tuple[str, ...]) -> None:
        self._fields = fields
        self.counts: dict[str, int] = {}

    def touch(self) -> Touch:
        return Touch(shuns=frozenset(self._fields))

    def apply_rows(self, rows: Rows, book: Book) -> Rows:  # noqa: ARG002
        for name in self._fields:
            if name in rows.shape.attributes:
                rows.put(name, repeat(ABSENT))
        return rows

    def apply(self, frame: pl.DataFrame) -> pl.DataFrame:
        return frame.drop(self._fields, strict=False)


class RedactTransform(Transform, frozen=True, kw_only=True):
    """Blots out what must not leave the machine, in all text columns or some.

    detectors: email, ipv4, ipv6, card (with a right check digit), bearer, jwt, aws_key, token (of services that mark
    theirs), password (what follows `password=` and the like), url_credentials, private_key. patterns: further regular
    expressions; what their group `keep` takes stays. fields: which columns; empty for all that are text. mask: what
    stands there instead; default ***. hash_key: with it, a keyed hash stands there, so that one value has one stand-in.
    """

    kind: ClassVar[str] = "redact"
    short: ClassVar[str] = "detectors"
    detectors: tuple[Detector, ...] = ()
    patterns: tuple[str, ...] = ()
    fields: tuple[str, ...] = ()
    mask: str = "***"
    hash_key: Secret = ""

    def faults(self) -> Faults:
        import re2

        if not self.detectors and not self.patterns:
            yield ("detectors",), "nothing to redact", f"known: {', '.join(DETECTORS)}"
        for at, pattern in enumerate(self.patterns):
            try:
                re2.compile(pattern)
            except re2.error as error:
                yield ("patterns", at), f"is not a pattern: {error}", ""

    def open(self) -> Step:
        return _Redact(self)


class _Redact:
    reads_lines = False
    writes = ()

    def __init__(self, options: RedactTransform) -> None:
        self._options = options
        self._fields = options.fields
        self._made: list[Blot | Blots] | None = None
        self._hits: set[str] = set()
        self.counts: dict[str, int] = {}

    @property
    def _blots(self) -> list[Blot | Blots]:
        if self._made is None:
            options = self._options
            named = [(name, DETECTORS[name]) for name in options.detectors]
            texts = [*named, *(("", one) for one in options.patterns)]
            self._made = grouped([self._blot(name, text) for name, text in texts])
        return self._made

    def touch(self) -> Touch | None:
        return None if self._fields else Touch(blots=tuple(self._blots))

    def _blot(self, name: str, pattern: str) -> Blot:
        plain = not self._options.hash_key and name != "card" and "(?P<keep>" not in pattern
        mask = self._options.mask
        return Blot(pattern, mask if plain else masking(mask, self._options.hash_key, luhn=name == "card"))

    def apply(self, frame: pl.DataFrame) -> pl.DataFrame:
        import polars as pl

        changed = []
        for name, dtype in frame.schema.items():
            if dtype == pl.String and not name.startswith("@") and (not self._fields or name in self._fields):
                values = blot_out(frame[name].to_list(), self._blots)
                if values is not None:
                    changed.append(pl.Series(name, values, dtype=pl.String))
        return frame.with_columns(changed)

    def apply_rows(self, rows: Rows, book: Book) -> Rows:  # noqa: ARG002
        names = self._fields or rows.shape.names
        needle = self._blots[0].needle if len(self._blots) == 1 else ""
        left = rows.at_most(needle) if needle else None
        if left is None:
            for name in names:
                self._column(rows, name)
            return rows
        # Those first where something was before: with all that can be there found, the others need no look.
        for name in sorted(names, key=self._hits.__contains__, reverse=True):
            if left <= 0:
                break
            left -= self._column(rows, name)
        return rows

    def _column(self, rows: Rows, name: str) -> int:
        """Change a column; return how many needles it had, where they are counted."""
        column = rows.column(name)
        if column is None:
            return 0
        before = sum(blot.seen for blot in self._blots)
        changed = blot_out(column, self._blots)
        if changed is not None:
            self._hits.add(name)
            rows.put(name, changed)
        return sum(blot.seen for blot in self._blots) - before


class SampleTransform(Transform, frozen=True, kw_only=True):
    """Keeps a share of the records, chosen by their content and place: the same ones on every delivery.

    share: how many, `10%`.
    """

    kind: ClassVar[str] = "sample"
    short: ClassVar[str] = "share"
    share: Annotated[float, Meta(ge=0, le=1, extra={"unit": "share"})]

    def open(self) -> Step:
        return _Sample(self.share)


class _Sample:
    reads_lines = False
    writes = ()

    def __init__(self, share: float) -> None:
        self._below = round(share * 10_000)
        self.counts = {"dropped": 0}

    def touch(self) -> Touch:
        return Touch(judges=True)

    def apply_rows(self, rows: Rows, book: Book) -> Rows:  # noqa: ARG002
        mixed = zip(rows.crcs, rows.offsets, strict=True)
        kept = rows.keep([(crc + at * 2_654_435_761 % 4_294_967_291) % 10_000 < self._below for crc, at in mixed])
        self.counts["dropped"] += len(rows) - len(kept)
        return kept

    def apply(self, frame: pl.DataFrame) -> pl.DataFrame:
        import polars as pl

        # Checksum and offset mixed: lines that are all alike are sampled, too.
        mixed = pl.col("@crc").cast(pl.UInt64) + pl.col("@offset") * 2_654_435_761 % 4_294_967_291
        kept = frame.filter(mixed % 10_000 < self._below)
        self.counts["dropped"] += frame.height - kept.height
        return kept
