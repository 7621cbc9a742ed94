"""The one list of transforms. Each loads polars when its first block comes."""

from __future__ import annotations

from dogwatch.core.component import Registry
from dogwatch.logs.transform import Transform

TRANSFORMS: Registry[Transform] = Registry(
    "log_transform",
    "json = dogwatch.logs.transforms.parse:JsonTransform",
    "regex = dogwatch.logs.transforms.parse:RegexTransform",
    "nginx = dogwatch.logs.transforms.parse:NginxTransform",
    "timestamp = dogwatch.logs.transforms.parse:TimestampTransform",
    "where = dogwatch.logs.transforms.where:WhereTransform",
    "set = dogwatch.logs.transforms.change:SetTransform",
    "rename = dogwatch.logs.transforms.change:RenameTransform",
    "remove = dogwatch.logs.transforms.change:RemoveTransform",
    "redact = dogwatch.logs.transforms.change:RedactTransform",
    "sample = dogwatch.logs.transforms.change:SampleTransform",
    "logfmt = dogwatch.logs.transforms.text:LogfmtTransform",
    "apache = dogwatch.logs.transforms.text:ApacheTransform",
    "syslog = dogwatch.logs.transforms.text:SyslogTransform",
    "csv = dogwatch.logs.transforms.text:CsvTransform",
    "container = dogwatch.logs.transforms.text:ContainerTransform",
    "trace = dogwatch.logs.transforms.trace:TraceTransform",
    "rate_limit = dogwatch.logs.transforms.limit:RateLimitTransform",
    "dedupe = dogwatch.logs.transforms.limit:DedupeTransform",
    "metric = dogwatch.logs.transforms.metric:MetricTransform",
    "wasm = dogwatch.logs.transforms.wasm:WasmTransform",
)
