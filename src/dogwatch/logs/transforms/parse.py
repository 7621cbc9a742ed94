"""The transforms that make columns of a line."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, ClassVar, Literal

from dogwatch.logs.rows import Book, Rows, Unread, read_json, read_json_in, too_deep
from dogwatch.logs.splice import Touch
from dogwatch.logs.transform import Step, Transform
from dogwatch.logs.transforms.access_log import ACCESS_NUMBERS, ACCESS_PATTERN, AccessLog

if TYPE_CHECKING:
    import polars as pl

Faults = Iterable[tuple[tuple[str | int, ...], str, str]]


class JsonTransform(Transform, frozen=True, kw_only=True):
    """Makes columns of lines that are JSON objects. A line that is none keeps its message, and is counted; so is one
    with a name that has quotes, backslashes or control characters, one beyond 500 different names in a block, and one
    that is nested more than 128 levels deep.

    field: where the text is; default message. keep: leave the text there; default no, where it could be read.
    """

    kind: ClassVar[str] = "json"
    field: str = "message"
    keep: bool = False

    def open(self) -> Step:
        return _Json(self)


class _Json:
    writes = ()

    def __init__(self, options: JsonTransform) -> None:
        self._options = options
        self.reads_lines = options.field == "message"
        self.counts = {"unread": 0}

    def touch(self) -> Touch | None:
        return Touch(first=True) if self.reads_lines and not self._options.keep else None

    def apply_rows(self, rows: Rows | Unread, book: Book) -> Rows:
        if isinstance(rows, Unread):
            found, unread = read_json(rows, book, keep=self._options.keep)
        else:
            found, unread = read_json_in(rows, self._options.field, book, keep=self._options.keep)
        self.counts["unread"] += unread
        return found

    def apply(self, frame: pl.DataFrame) -> pl.DataFrame:
        import msgspec
        import polars as pl

        text = frame[self._options.field].fill_null("")
        # What is nested too deep must not reach what calls itself for each level.
        text = pl.Series(["" if too_deep(one.encode("utf-8", "replace")) else one for one in text], dtype=pl.String)
        # A line that begins and ends as an object is tried as one; all together first, which is what is fast.
        try:
            parsed = pl.read_ndjson(("\n".join(text) + "\n").encode(), infer_schema_length=None) if len(text) else None
        except pl.exceptions.PolarsError:
            parsed = None
        good: pl.Series = pl.Series([True] * len(text), dtype=pl.Boolean)
        if parsed is None or parsed.height != len(text):
            decode = msgspec.json.Decoder().decode
            rows, flags = [], []
            for line in text:
                try:
                    row = decode(line)
                except msgspec.MsgspecError:
                    row = None
                flags.append(isinstance(row, dict))
                rows.append(row if isinstance(row, dict) else {})
            good = pl.Series(flags, dtype=pl.Boolean)
            self.counts["unread"] += len(flags) - sum(flags)
            try:
                lines = b"\n".join(map(msgspec.json.encode, rows)) + b"\n"
                parsed = pl.read_ndjson(lines, infer_schema_length=None) if any(flags) else None
            except pl.exceptions.PolarsError:
                parsed = None
            if parsed is None or parsed.height != len(text):
                return frame
        columns = [one for one in parsed.get_columns() if not one.name.startswith("@")]
        if not self._options.keep and self._options.field not in parsed.columns:
            kept = pl.when(good).then(None).otherwise(pl.col(self._options.field)).alias(self._options.field)
            frame = frame.with_columns(kept)
        return frame.with_columns(columns)


class RegexTransform(Transform, frozen=True, kw_only=True):
    """Makes columns of a pattern's named groups. A line that does not match is kept as it is, and counted.

    pattern: `(?P<name>…)` groups; look-around and back-references are not to be had. field: where the text is; default
    message. keep: leave the text there where it matched; default no.
    """

    kind: ClassVar[str] = "regex"
    short: ClassVar[str] = "pattern"
    pattern: str
    field: str = "message"
    keep: bool = False

    def faults(self) -> Faults:
        try:
            groups = re.compile(self.pattern).groupindex
        except re.error as error:
            yield ("pattern",), f"is not a pattern: {error}", ""
            return
        if not groups:
            yield ("pattern",), "has no named group", "(?P<name>…)"
        if re.search(r"\(\?(=|!|<=|<!|P=)|\\[1-9]", self.pattern):
            yield ("pattern",), "look-around and back-references are not to be had", ""

    def open(self) -> Step:
        return _Regex(self.pattern, self.field, keep=self.keep)


class NginxTransform(Transform, frozen=True, kw_only=True):
    """Makes columns of access logs of nginx and Apache in the common, combined or main format; status and size are
    numbers. What a client sent that is no request (a handshake of TLS, nothing) is `request`, without a method.

    field: where the text is; default message. keep: leave the text there where it matched; default no.
    """

    kind: ClassVar[str] = "nginx"
    field: str = "message"
    keep: bool = False

    def open(self) -> Step:
        return AccessLog(
            _Regex(ACCESS_PATTERN, self.field, keep=self.keep, numbers=ACCESS_NUMBERS), self.field, keep=self.keep
        )


class _Regex:
    def __init__(self, pattern: str, field: str, *, keep: bool, numbers: tuple[str, ...] = ()) -> None:
        self._pattern = pattern
        self._field = field
        self._keep = keep
        self._numbers = numbers
        self._names = tuple(re.compile(pattern).groupindex)
        self.counts = {"unread": 0}

    def apply(self, frame: pl.DataFrame) -> pl.DataFrame:
        import polars as pl

        text = pl.col(self._field)
        matched = frame.select(text.str.extract_groups(self._pattern).alias("groups"), text.str.contains(self._pattern))
        fields = matched["groups"].struct.unnest().select(self._names)
        good = matched[self._field].fill_null(value=False)
        self.counts["unread"] += int((~good).sum())
        casts = [pl.col(name).cast(pl.Int64, strict=False) for name in self._numbers if name in fields.columns]
        fields = fields.with_columns(casts) if casts else fields
        if not self._keep and self._field not in self._names:
            frame = frame.with_columns(pl.when(good).then(None).otherwise(text).alias(self._field))
        return frame.with_columns(fields.get_columns())


class TimestampTransform(Transform, frozen=True, kw_only=True):
    """Reads a time out of a column and writes it as RFC 3339 in UTC. What cannot be read is kept, and counted.

    field: which. format: as strftime has it, or iso, unix, unix_ms. zone: of times that name none; default UTC. to:
    where the time goes; default timestamp.
    """

    kind: ClassVar[str] = "timestamp"
    short: ClassVar[str] = "field"
    field: str
    format: str = "iso"
    zone: str = "UTC"
    to: str = "timestamp"

    def faults(self) -> Faults:
        import zoneinfo

        try:
            zoneinfo.ZoneInfo(self.zone)
        except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
            yield ("zone",), "is not a time zone", "Europe/Berlin"
        if "%" not in self.format and self.format not in {"iso", "unix", "unix_ms"}:
            yield ("format",), "is neither a strftime format nor iso, unix or unix_ms", "%d/%b/%Y:%H:%M:%S %z"

    def open(self) -> Step:
        return _Timestamp(self)


class _Timestamp:
    def __init__(self, options: TimestampTransform) -> None:
        self._options = options
        self.counts = {"unread": 0}

    def apply(self, frame: pl.DataFrame) -> pl.DataFrame:
        import polars as pl

        options = self._options
        if options.field not in frame.columns:
            self.counts["unread"] += frame.height
            return frame
        times = frame.select(self._expression(pl.col(options.field)).alias("time"))["time"]
        self.counts["unread"] += int(times.null_count() - frame[options.field].null_count())
        text = times.dt.strftime("%Y-%m-%dT%H:%M:%S%.6fZ")
        if options.to in frame.columns:
            text = text.fill_null(frame[options.to].cast(pl.String))
        return frame.with_columns(text.alias(options.to))

    def _expression(self, column: pl.Expr) -> pl.Expr:
        import polars as pl

        how: Literal["us"] = "us"
        if self._options.format in {"unix", "unix_ms"}:
            factor = 1_000_000 if self._options.format == "unix" else 1000
            return pl.from_epoch((column.cast(pl.Float64, strict=False) * factor).cast(pl.Int64), time_unit=how)
        text = column.cast(pl.String)
        if self._options.format == "iso":
            # With and without an offset in one column.
            zoned = text.str.to_datetime("%+", time_unit=how, time_zone="UTC", strict=False).dt.replace_time_zone(None)
            plain = text.str.replace(" ", "T", literal=True).str.to_datetime(
                "%Y-%m-%dT%H:%M:%S%.f", time_unit=how, strict=False
            )
            return pl.coalesce(zoned, self._to_utc(plain))
        found = text.str.to_datetime(self._options.format, time_unit=how, strict=False)
        if any(mark in self._options.format for mark in ("%z", "%:z", "%#z", "%+")):
            return found.dt.convert_time_zone("UTC").dt.replace_time_zone(None)
        return self._to_utc(found)

    def _to_utc(self, times: pl.Expr) -> pl.Expr:
        if self._options.zone == "UTC":
            return times
        local = times.dt.replace_time_zone(self._options.zone, ambiguous="earliest", non_existent="null")
        return local.dt.convert_time_zone("UTC").dt.replace_time_zone(None)
