"""The one list of transforms. Each loads polars when its first block comes."""

from __future__ import annotations

from dogwatch.core.component import Registry
from dogwatch.logs.transform import Transform
from dogwatch.logs.transforms.change import (
    RedactTransform,
    RemoveTransform,
    RenameTransform,
    SampleTransform,
    SetTransform,
)
from dogwatch.logs.transforms.limit import DedupeTransform, RateLimitTransform
from dogwatch.logs.transforms.metric import MetricTransform
from dogwatch.logs.transforms.parse import JsonTransform, NginxTransform, RegexTransform, TimestampTransform
from dogwatch.logs.transforms.text import (
    ApacheTransform,
    ContainerTransform,
    CsvTransform,
    LogfmtTransform,
    SyslogTransform,
)
from dogwatch.logs.transforms.trace import TraceTransform
from dogwatch.logs.transforms.wasm import WasmTransform
from dogwatch.logs.transforms.where import WhereTransform

TRANSFORMS: Registry[Transform] = Registry(
    "log_transform",
    JsonTransform,
    RegexTransform,
    NginxTransform,
    TimestampTransform,
    WhereTransform,
    SetTransform,
    RenameTransform,
    RemoveTransform,
    RedactTransform,
    SampleTransform,
    LogfmtTransform,
    ApacheTransform,
    SyslogTransform,
    CsvTransform,
    ContainerTransform,
    TraceTransform,
    RateLimitTransform,
    DedupeTransform,
    MetricTransform,
    WasmTransform,
)
