"""`dogwatch logs query`: what the log store on this machine holds."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dogwatch.cli.heeding import interrupted
from dogwatch.cli.output import counted, one_line, print_json, print_table, width
from dogwatch.core.units import format_duration, parse_duration, parse_size
from dogwatch.errors import NotFound, UsageError

if TYPE_CHECKING:
    from dogwatch.logs.store.query import Answer, LogStore, Query

_WIDTHS_S = (1, 5, 10, 30, 60, 300, 900, 1800, 3600, 10_800, 21_600, 86_400)
_OWN = frozenset(("id", "source", "file", "time_us", "message", "level"))
_BAR = 40
_POLL_S = 0.3
Seconds = float


class When(click.ParamType[int]):
    """A time ago, `2h`, or a moment, `2026-11-21T08:00:00Z`; in microseconds."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        try:
            return int((time.time() - parse_duration(value)) * 1e6)
        except ValueError:
            pass
        try:
            moment = datetime.fromisoformat(value)
        except ValueError:
            self.fail(f"'{value}' is neither a duration (2h) nor a moment (2026-11-21T08:00:00Z)", param, ctx)
        return int(moment.timestamp() * 1e6)


@click.command()
@click.argument("condition", default="")
@click.option("--text", default="", metavar="WORDS", help="All of these words, in any field; case does not matter.")
@click.option("--since", type=When(), metavar="TIME", default="1h", show_default=True, help="2h, or a moment.")
@click.option("--until", type=When(), metavar="TIME", help="Until then, exclusive.")
@click.option("--all", "every", is_flag=True, help="Whatever its time; instead of --since.")
@click.option("--source", "sources", multiple=True, metavar="NAME", help="Only of this source; may be repeated.")
@click.option("--trace", metavar="ID", help="Of this trace, over all sources.")
@click.option("--run", "run_id", metavar="ID", help="Of the trace of this run of a job.")
@click.option("--limit", type=click.IntRange(1, 10_000), default=100, show_default=True, help="The newest so many.")
@click.option("--group", multiple=True, metavar="FIELD", help="Count by this field; may be repeated.")
@click.option("--histogram", "buckets", is_flag=False, flag_value="auto", metavar="[WIDTH]", help="Count by time.")
@click.option("-f", "--follow", is_flag=True, help="Go on with what comes, until Ctrl-C.")
@click.option("--json", "as_json", is_flag=True, help="Records as JSON lines; counts as one object.")
@click.option("--memory", default="256MiB", show_default=True, metavar="SIZE", help="At most this much.")
@click.option("--threads", type=click.IntRange(1, 64), default=2, show_default=True, help="At most so many cores.")
@click.option("--time", "time_limit", default="30s", show_default=True, metavar="DURATION", help="At most this long.")
@click.option("--folder", metavar="PATH", help="The store's folder. Default: what the configuration says.")
@click.option("-c", "--config", "paths", multiple=True, metavar="PATH", help="As for `logs check`.")
def query(
    condition: str,
    text: str,
    since: int,
    until: int | None,
    every: bool,
    sources: tuple[str, ...],
    trace: str | None,
    run_id: str | None,
    limit: int,
    group: tuple[str, ...],
    buckets: str | None,
    follow: bool,
    as_json: bool,
    memory: str,
    threads: int,
    time_limit: str,
    folder: str | None,
    paths: tuple[str, ...],
) -> int:
    """Search the log store on this machine.

    CONDITION is CEL over the records' fields, as in `where`.

    \b
    Examples:
      dogwatch logs query 'level == "error" && service == "shop"' --since 2h
      dogwatch logs query --text 'payment refused' --group service
      dogwatch logs query --trace 4bf92f3577b34da6a3ce929d0e0e4736 --all
    """
    from dogwatch.logs.store.query import Limits, LogStore, Query, QueryError

    if follow and (group or buckets):
        raise UsageError("--follow shows records; it cannot be had with --group or --histogram")
    where = _folder(folder, paths)
    try:
        limits = Limits(memory_bytes=parse_size(memory), threads=threads, time_s=parse_duration(time_limit))
    except ValueError as error:
        raise UsageError(str(error)) from None
    store = LogStore(where, limits, expected=not folder)
    since_us = 0 if every or trace or run_id else since
    if until is not None and until <= since_us:
        raise UsageError("--until is not after --since", hint="--since is an hour ago unless you give it")
    asked = Query(
        condition=_with_trace(condition, trace, run_id),
        text=text,
        since_us=since_us,
        until_us=until or 0,
        sources=sources or None,
        limit=0 if group or buckets else limit,
        group=group,
        bucket_us=_bucket_us(buckets, since_us, until),
    )
    try:
        if follow:
            return _follow(store, where, asked, as_json=as_json)
        answer = store.run(asked)
    except QueryError as error:
        raise _pointed(error, asked.condition) from None
    if group or buckets:
        _show_counts(answer, asked, as_json=as_json)
    else:
        for record in answer.records:
            _show(record, as_json=as_json)
    _say(answer, as_json=as_json)
    return 0


def _folder(given: str | None, paths: Sequence[str]) -> Path:
    if given:
        return Path(given)
    from dogwatch.cli.logs import load_logs
    from dogwatch.logs.place import store_folder

    spec, folder = load_logs(paths)
    found = store_folder(spec, folder)
    if found is None:
        raise NotFound("the configuration has no sink `store`", hint="add `store: {}` to logs.sinks, or give --folder")
    return found


def _with_trace(condition: str, trace: str | None, run_id: str | None) -> str:
    parts = [f"({condition})"] if condition.strip() else []
    if trace:
        text = json.dumps(trace.replace("-", "") if len(trace) == 36 else trace)
        parts.append(f"(trace_id == {text} || traceId == {text})")
    if run_id:
        from dogwatch.engine.tracing import trace_of

        text = json.dumps(trace_of(run_id))
        parts.append(f"(trace_id == {text} || traceId == {text} || run_id == {json.dumps(run_id)})")
    return " && ".join(parts) if len(parts) > 1 or trace or run_id else condition


def _bucket_us(wanted: str | None, since_us: int, until_us: int | None) -> int:
    if not wanted:
        return 0
    if wanted == "auto":
        span_s = ((until_us or time.time() * 1e6) - since_us) / 1e6 if since_us else 86_400.0
        return next((one for one in _WIDTHS_S if span_s / one <= 40), 86_400) * 1_000_000
    try:
        return max(1, int(parse_duration(wanted) * 1e6))
    except ValueError as error:
        raise UsageError(f"--histogram: {error}") from None


def _pointed(error: Any, condition: str) -> UsageError:
    """Show where in the condition the mistake is."""
    if error.position < 0:
        return UsageError(str(error), hint=error.hint)
    at = min(error.position, len(condition))
    line = condition[max(0, at - 40) : at + 30].replace("\n", " ")
    return UsageError(f"{error} at {at + 1}\n  {line}\n  {' ' * min(at, 40)}^", hint=error.hint)


def _moment(time_us: int) -> str:
    return datetime.fromtimestamp(time_us / 1e6, UTC).astimezone().strftime("%Y-%m-%d %H:%M:%S.%f")[:-3]


def _show(record: Mapping[str, Any], *, as_json: bool) -> None:
    if as_json:
        moment = datetime.fromtimestamp(record["time_us"] / 1e6, UTC).isoformat().replace("+00:00", "Z")
        shown = {"@time": moment, **{k: v for k, v in record.items() if k != "time_us"}}
        click.echo(json.dumps(shown, ensure_ascii=False))
        return
    rest = " ".join(
        f"{name}={value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)}"
        for name, value in record.items()
        if name not in _OWN and value is not None
    )
    parts = (record.get("level", ""), record["source"], record.get("message", ""), rest)
    click.echo(one_line(f"{_moment(record['time_us'])} " + " ".join(str(part) for part in parts if part)))


def _show_counts(answer: Answer, asked: Query, *, as_json: bool) -> None:
    if as_json:
        print_json(
            {
                "matched": answer.matched,
                "groups": [
                    {"values": dict(zip(asked.group, values, strict=True)), "count": count}
                    for values, count in answer.groups
                ],
                "buckets": [{"time_us": begin, "count": count} for begin, count in answer.buckets.items()],
            }
        )
        return
    if asked.bucket_us and answer.buckets:
        most = max(answer.buckets.values())
        begin, last = min(answer.buckets), max(answer.buckets)
        room = min(_BAR, (width() or 80) - 40)
        for at in range(begin, last + 1, max(asked.bucket_us, (last - begin) // 2000 + 1)):
            count = answer.buckets.get(at, 0)
            click.echo(f"{_moment(at)[:19]}  {count:>9,}  {'█' * round(count / most * max(5, room))}")
    if asked.group:
        rows = [["–" if value is None else str(value) for value in values] + [f"{n:,}"] for values, n in answer.groups]
        print_table([*asked.group, "records"], rows)


def _say(answer: Answer, *, as_json: bool) -> None:
    if as_json:
        return
    said = f"{counted(answer.matched or len(answer.records), 'record')} in {format_duration(round(answer.took_s, 3))}"
    if answer.segments:
        said += f"; {answer.skipped} of {answer.segments} segments skipped"
    if answer.by_row:
        said += f"; {answer.by_row:,} judged one by one"
    if answer.unreadable:
        said += f"; {answer.unreadable} damaged parts are missing"
    click.echo(said, err=True)
    for sentence in answer.unknown:
        click.echo(sentence, err=True)


def _follow(store: LogStore, folder: Path, asked: Query, *, as_json: bool) -> int:
    from dogwatch.logs.store.follow import Follow
    from dogwatch.logs.store.query import Meant

    meant = Meant(asked)
    follow = Follow(folder)
    try:
        with interrupted() as stop:
            # What came between the two beginnings is found by both.
            known = set()
            for record in store.run(asked).records:
                known.add(record["id"])
                _show(record, as_json=as_json)
            while not stop.is_set():
                for record in follow.read():
                    if meant.holds(record) and record["id"] not in known:
                        _show(record, as_json=as_json)
                known.clear()
                stop.wait(_POLL_S)
    finally:
        follow.close()
    raise KeyboardInterrupt
