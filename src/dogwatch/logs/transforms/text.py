"""The transforms that make columns of lines of other formats: logfmt, Apache, syslog, CSV, containers."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from msgspec import Meta

from dogwatch.logs.rows import too_deep
from dogwatch.logs.transform import Step, Transform

if TYPE_CHECKING:
    import polars as pl

Faults = Iterable[tuple[tuple[str | int, ...], str, str]]


def with_columns(
    frame: pl.DataFrame, rows: Sequence[dict[str, object] | None], field: str, *, keep: bool
) -> pl.DataFrame:
    """Return the frame with columns of what was read of each row; None where it could not be. Unless it is kept, the
    field is emptied where it was read.
    """
    import polars as pl

    names = list(dict.fromkeys(name for row in rows if row for name in row if not name.startswith("@")))
    changed = []
    for name in names:
        values = [None if row is None else row.get(name) for row in rows]
        column = pl.Series(name, values, strict=False)
        if name in frame.columns and name != field:
            # What a record had already stays where the text says nothing of it.
            column = column.fill_null(frame[name].cast(column.dtype, strict=False))
        changed.append(column)
    if field in frame.columns and (not keep or field in names):
        read = pl.Series([row is not None for row in rows], dtype=pl.Boolean)
        own = next((one for one in changed if one.name == field), None)
        kept = frame[field].set(read, None) if own is None else own.zip_with(read, frame[field].cast(own.dtype))
        changed = [one for one in changed if one.name != field] + [kept.alias(field)]
    return frame.with_columns(changed)


class _ByText:
    """A step that reads one text at a time. counts: unread."""

    def __init__(self, field: str, *, keep: bool) -> None:
        self._field = field
        self._keep = keep
        self.counts = {"unread": 0}

    def apply(self, frame: pl.DataFrame) -> pl.DataFrame:
        if self._field not in frame.columns:
            self.counts["unread"] += frame.height
            return frame
        rows = [self.read(text) if isinstance(text, str) else None for text in frame[self._field].to_list()]
        self.counts["unread"] += rows.count(None)
        return with_columns(frame, rows, self._field, keep=self._keep)

    def read(self, text: str) -> dict[str, object] | None:
        raise NotImplementedError


class LogfmtTransform(Transform, frozen=True, kw_only=True):
    """Makes columns of `key=value key="a value"`. A line without a pair keeps its message, and is counted.

    field: where the text is; default message. keep: leave the text there; default no, where it could be read.
    """

    kind: ClassVar[str] = "logfmt"
    field: str = "message"
    keep: bool = False

    def open(self) -> Step:
        return _Logfmt(self.field, keep=self.keep)


_PAIR = re.compile(r'([^\s="]+)(?:=(?:"((?:[^"\\]|\\.)*)"|(\S*)))?')
_ESCAPE = re.compile(r"\\(.)")
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r"}


class _Logfmt(_ByText):
    def read(self, text: str) -> dict[str, object] | None:
        if "=" not in text:
            return None
        found: dict[str, object] = {}
        for match in _PAIR.finditer(text):
            name, quoted, plain = match.groups()
            if quoted is not None:
                found[name] = _ESCAPE.sub(_unescaped, quoted) if "\\" in quoted else quoted
            elif plain is not None:
                found[name] = plain
            else:
                found.setdefault(name, "true")
        return found


def _unescaped(match: re.Match[str]) -> str:
    return _ESCAPES.get(match[1], match[1])


class ApacheTransform(Transform, frozen=True, kw_only=True):
    """Makes columns of Apache's logs. A line of another format is kept as it is, and counted.

    format: combined (and common), vhost (with the virtual host first), or error. field: where the text is; default
    message. keep: leave the text there where it matched; default no.
    """

    kind: ClassVar[str] = "apache"
    format: Literal["combined", "vhost", "error"] = "combined"
    field: str = "message"
    keep: bool = False

    def open(self) -> Step:
        return _Patterned(self.field, _APACHE[self.format], keep=self.keep)


_REQUEST = (
    r"(?P<remote_addr>\S+) (?P<ident>\S+) (?P<remote_user>\S+) \[(?P<time_local>[^\]]+)\] "
    r'"(?:(?P<method>[A-Z]+) (?P<path>\S+)(?: (?P<protocol>[^"]+))?|(?P<request>(?:[^"\\]|\\.)*))" '
    r"(?P<status>\d{3}) (?P<body_bytes_sent>\d+|-)"
    r'(?: "(?P<http_referer>(?:[^"\\]|\\.)*)" "(?P<http_user_agent>(?:[^"\\]|\\.)*)")?'
)
_APACHE = {
    "combined": re.compile(_REQUEST),
    "vhost": re.compile(r"(?P<vhost>\S+) " + _REQUEST),
    "error": re.compile(
        r"\[(?P<time_local>[^\]]+)\] \[(?:(?P<module>[^:\]]*):)?(?P<level>[a-z0-9]+)\]"
        r"(?: \[pid (?P<pid>\d+)(?::tid (?P<tid>\d+))?\])?(?: \[client (?P<client>[^\]]+)\])? "
        r"(?:(?P<code>AH\d{5}): )?(?P<message>.*)",
        re.DOTALL,
    ),
}
_NUMBERS = frozenset({"status", "body_bytes_sent", "pid", "tid"})


class _Patterned(_ByText):
    def __init__(self, field: str, pattern: re.Pattern[str], *, keep: bool) -> None:
        super().__init__(field, keep=keep)
        self._match = pattern.match

    def read(self, text: str) -> dict[str, object] | None:
        match = self._match(text)
        if match is None:
            return None
        found: dict[str, object] = {}
        for name, value in match.groupdict().items():
            if value is None or (value == "-" and name != "message"):
                continue
            found[name] = int(value) if name in _NUMBERS else value
        return found


class SyslogTransform(Transform, frozen=True, kw_only=True):
    """Makes columns of syslog messages, RFC 5424 and 3164: facility, level, timestamp, host, app, pid, msgid, message;
    of structured data `structured`, `id.name="value"` as logfmt. Lines of /var/log/syslog, which have no priority, have
    neither facility nor level. What is nothing of it is kept, and counted.

    field: where the text is; default message. keep: leave the text there; default no. zone: of the times of RFC 3164,
    which name none; default UTC.
    """

    kind: ClassVar[str] = "syslog"
    field: str = "message"
    keep: bool = False
    zone: str = "UTC"

    def faults(self) -> Faults:
        import zoneinfo

        try:
            zoneinfo.ZoneInfo(self.zone)
        except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
            yield ("zone",), "is not a time zone", "Europe/Berlin"

    def open(self) -> Step:
        return _Syslog(self)


_FACILITIES = (
    *("kern", "user", "mail", "daemon", "auth", "syslog", "lpr", "news", "uucp", "cron", "authpriv", "ftp"),
    *("ntp", "audit", "alert", "clock", *(f"local{one}" for one in range(8))),
)
_LEVELS = ("emerg", "alert", "crit", "err", "warning", "notice", "info", "debug")
_NEW = re.compile(
    r"<(?P<priority>\d{1,3})>1 (?P<timestamp>\S+) (?P<host>\S+) (?P<app>\S+) (?P<pid>\S+) (?P<msgid>\S+) "
    r'(?P<structured>-|(?:\[[^\s=\]"]+(?: [^\s=\]"]+="(?:[^"\\\]]|\\.)*")*\])+)(?: \ufeff?(?P<message>.*))?$',
    re.DOTALL,
)
_OLD = re.compile(
    r"<(?P<priority>\d{1,3})>(?P<timestamp>[A-Z][a-z]{2} [ \d]\d \d\d:\d\d:\d\d|\d{4}-\d\d-\d\dT\S+) "
    r"(?:(?P<host>[^\s:\[]+) )?(?P<app>[^\s:\[]{1,48})(?:\[(?P<pid>[^\]]*)\])?: ?(?P<message>.*)$",
    re.DOTALL,
)
# What syslog daemons write to /var/log: the old form and the new one of rsyslog, both without the priority.
_FILE = re.compile(
    r"(?P<timestamp>[A-Z][a-z]{2} [ \d]\d \d\d:\d\d:\d\d|\d{4}-\d\d-\d\dT\S+) (?P<host>[^\s:\[]+) "
    r"(?P<app>[^\s:\[]{1,48})(?:\[(?P<pid>[^\]]*)\])?: ?(?P<message>.*)$",
    re.DOTALL,
)
_BARE = re.compile(r"<(?P<priority>\d{1,3})>(?P<message>.*)$", re.DOTALL)
_ELEMENT = re.compile(r'\[([^\s=\]"]+)((?: [^\s=\]"]+="(?:[^"\\\]]|\\.)*")*)\]')
_PARAMETER = re.compile(r' ([^\s=\]"]+)="((?:[^"\\\]]|\\.)*)"')


class _Syslog(_ByText):
    def __init__(self, options: SyslogTransform) -> None:
        super().__init__(options.field, keep=options.keep)
        import zoneinfo

        self._zone = zoneinfo.ZoneInfo(options.zone)

    def read(self, text: str) -> dict[str, object] | None:
        match = _NEW.match(text) or _OLD.match(text) or _BARE.match(text) or _FILE.match(text)
        if match is None:
            return None
        found: dict[str, object] = {k: v for k, v in match.groupdict().items() if v is not None and v != "-"}
        if "priority" in found:
            facility, level = divmod(int(str(found.pop("priority"))), 8)
            if facility >= len(_FACILITIES):
                return None
            found |= {"facility": _FACILITIES[facility], "level": _LEVELS[level]}
        found["message"] = match["message"] or ""
        if "timestamp" in found:
            found["timestamp"] = self._time(str(found["timestamp"]))
        if "structured" in found:
            found["structured"] = " ".join(
                f'{element}.{name}="{value}"'
                for element, rest in _ELEMENT.findall(str(found["structured"]))
                for name, value in _PARAMETER.findall(rest)
            )
        return found

    def _time(self, text: str) -> str:
        """Return RFC 3339 in UTC. A time without a year is the last one that is not more than a day ahead."""
        try:
            if text[:1].isdigit():
                at = datetime.fromisoformat(text)
            else:
                now = datetime.now(self._zone)
                at = datetime.strptime(f"{now.year} {text}", "%Y %b %d %H:%M:%S").replace(tzinfo=self._zone)
                if at > now + timedelta(days=1):
                    at = at.replace(year=now.year - 1)
        except ValueError:
            return text
        at = at if at.tzinfo else at.replace(tzinfo=self._zone)
        return at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


class CsvTransform(Transform, frozen=True, kw_only=True):
    """Makes columns of separated values. A line with another number of values is kept as it is, and counted.

    columns: their names, in order; "" for one that is left out. delimiter: default a comma. quote: default ". field:
    where the text is; default message. keep: leave the text there; default no.
    """

    kind: ClassVar[str] = "csv"
    short: ClassVar[str] = "columns"
    columns: tuple[str, ...]
    delimiter: Annotated[str, Meta(min_length=1, max_length=1)] = ","
    quote: Annotated[str, Meta(min_length=1, max_length=1)] = '"'
    field: str = "message"
    keep: bool = False

    def faults(self) -> Faults:
        named = [name for name in self.columns if name]
        if not named:
            yield ("columns",), "names no column", "columns: [time, level, message]"
        if len(set(named)) < len(named):
            yield ("columns",), "gives two columns one name", ""
        for at, name in enumerate(self.columns):
            if name.startswith("@"):
                yield ("columns", at), f"'{name}' cannot be a column of yours", ""

    def open(self) -> Step:
        return _Csv(self)


class _Csv(_ByText):
    def __init__(self, options: CsvTransform) -> None:
        super().__init__(options.field, keep=options.keep)
        self._options = options

    def read(self, text: str) -> dict[str, object] | None:
        options = self._options
        try:
            rows = list(csv.reader([text], delimiter=options.delimiter, quotechar=options.quote, strict=True))
        except csv.Error:
            return None
        if len(rows) != 1 or len(rows[0]) != len(options.columns):
            return None
        return {name: value for name, value in zip(options.columns, rows[0], strict=True) if name}


class ContainerTransform(Transform, frozen=True, kw_only=True):
    """Makes columns of container engines' lines: message, stream, timestamp; and where the file's name is one of
    Kubernetes', pod, namespace and container. Other lines are kept as they are, and counted.

    field: where the text is; default message.
    """

    kind: ClassVar[str] = "container"
    field: str = "message"

    def open(self) -> Step:
        return _Container(self.field)


_CRI = re.compile(r"(?P<timestamp>\d{4}-\S+) (?P<stream>stdout|stderr) [PF](?::\S+)? (?P<message>.*)$", re.DOTALL)
_CRI_PART = re.compile(r"\n\d{4}-\S+ (?:stdout|stderr) [PF](?::\S+)? ")
_POD = re.compile(r"/(?P<pod>[^/_]+)_(?P<namespace>[^/_]+)_(?P<container>[^/]+)-[0-9a-f]{64}\.log$")
_POD_FOLDER = re.compile(r"/pods/(?P<namespace>[^/_]+)_(?P<pod>[^/_]+)_[^/]+/(?P<container>[^/]+)/[^/]+$")


class _Container(_ByText):
    def __init__(self, field: str) -> None:
        super().__init__(field, keep=False)

    def apply(self, frame: pl.DataFrame) -> pl.DataFrame:
        import polars as pl

        frame = super().apply(frame)
        path = str(frame["@path"][0]) if "@path" in frame.columns and frame.height else ""
        match = _POD.search(path) or _POD_FOLDER.search(path)
        return frame if match is None else frame.with_columns(pl.lit(v).alias(k) for k, v in match.groupdict().items())

    def read(self, text: str) -> dict[str, object] | None:
        if text.startswith("{"):
            return _docker(text)
        match = _CRI.match(text)
        if match is None:
            return None
        found: dict[str, object] = dict(match.groupdict())
        if "\n" in text:
            found["message"] = _CRI_PART.sub("", match["message"])
        return found


def _docker(text: str) -> dict[str, object] | None:
    import msgspec

    if too_deep(text.encode("utf-8", "replace")):
        return None
    try:
        parts = [msgspec.json.decode(line) for line in text.split("\n")]
        message = "".join(part["log"] for part in parts)
        first = parts[0]
    except (msgspec.MsgspecError, KeyError, TypeError):
        return None
    return {"message": message.removesuffix("\n"), "stream": first.get("stream"), "timestamp": first.get("time")}
