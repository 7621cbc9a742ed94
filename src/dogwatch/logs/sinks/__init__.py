"""The one list of sinks."""

from __future__ import annotations

from dogwatch.core.component import Registry
from dogwatch.logs.sink import Sink

SINKS: Registry[Sink] = Registry(
    "log_sink",
    "stdout = dogwatch.logs.sinks.stdout:StdoutSink",
    "file = dogwatch.logs.sinks.file:FileSink",
    "store = dogwatch.logs.sinks.store:StoreSink",
    "http = dogwatch.logs.sinks.http:HttpSink",
    "loki = dogwatch.logs.sinks.loki:LokiSink",
    "elasticsearch = dogwatch.logs.sinks.elasticsearch:ElasticsearchSink",
    "kafka = dogwatch.logs.sinks.kafka:KafkaSink",
    "nats = dogwatch.logs.sinks.nats:NatsSink",
    "otlp = dogwatch.logs.sinks.otlp:OtlpSink",
    "syslog = dogwatch.logs.sinks.syslog:SyslogSink",
    "clickhouse = dogwatch.logs.sinks.clickhouse:ClickhouseSink",
    "s3 = dogwatch.logs.sinks.s3:S3Sink",
)
