"""The `trace` transform: which trace a record belongs to."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

from dogwatch.logs.transform import Step, Transform

if TYPE_CHECKING:
    import polars as pl

# W3C traceparent anywhere in a text; then the names that tracing libraries write.
_PARENT = r"\b[0-9a-f]{2}-([0-9a-f]{32})-([0-9a-f]{16})-[0-9a-f]{2}\b"
_TRACE = r'(?i)\b(?:trace[_.-]?id|x-b3-traceid|dd\.trace_id)"?\s*[=:]\s*"?([0-9a-f]{32}|[0-9a-f]{16}|\d{1,20})\b'
_SPAN = r'(?i)\b(?:span[_.-]?id|x-b3-spanid|dd\.span_id)"?\s*[=:]\s*"?([0-9a-f]{16}|\d{1,20})\b'
_NAMES: Mapping[str, tuple[str, ...]] = {
    "trace_id": ("trace_id", "traceId", "traceid", "TraceId", "trace.id", "otelTraceID", "x-b3-traceid", "dd.trace_id"),
    "span_id": ("span_id", "spanId", "spanid", "SpanId", "span.id", "otelSpanID", "x-b3-spanid", "dd.span_id"),
}


class TraceTransform(Transform, frozen=True, kw_only=True):
    """Fills `trace_id` and `span_id`: from columns that tracing libraries name so (traceId, otelTraceID, dd.trace_id
    and others), from a `traceparent` column, or from the text. Zeros alone are no id.

    field: the text in which a traceparent or `trace_id=…` is looked for; "" for none; default message.
    """

    kind: ClassVar[str] = "trace"
    short: ClassVar[str] = "field"
    field: str = "message"

    def open(self) -> Step:
        return _Trace(self.field)


class _Trace:
    def __init__(self, field: str) -> None:
        self._field = field
        self.counts = {"found": 0}

    def apply(self, frame: pl.DataFrame) -> pl.DataFrame:
        import polars as pl

        changed = []
        for at, (name, pattern) in enumerate((("trace_id", _TRACE), ("span_id", _SPAN))):
            places = [pl.col(one).cast(pl.String) for one in _NAMES[name] if one in frame.columns]
            if "traceparent" in frame.columns:
                places.append(pl.col("traceparent").cast(pl.String).str.extract(_PARENT, at + 1))
            if self._field in frame.columns and frame.schema[self._field] == pl.String:
                text = pl.col(self._field)
                places += [text.str.extract(_PARENT, at + 1), text.str.extract(pattern, 1)]
            if places:
                cleaned = [one.str.to_lowercase().replace({"": None, "0" * 32: None, "0" * 16: None}) for one in places]
                changed.append(pl.coalesce(cleaned).alias(name))
        frame = frame.with_columns(changed)
        if "trace_id" in frame.columns:
            self.counts["found"] += frame.height - frame["trace_id"].null_count()
            if not self.counts["found"]:
                empty = [one for one in ("trace_id", "span_id") if one in frame.columns and not frame[one].count()]
                frame = frame.drop(empty)
        return frame
