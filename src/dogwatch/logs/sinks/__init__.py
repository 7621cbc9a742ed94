"""The one list of sinks."""

from __future__ import annotations

from dogwatch.core.component import Registry
from dogwatch.logs.sink import Sink
from dogwatch.logs.sinks.clickhouse import ClickhouseSink
from dogwatch.logs.sinks.elasticsearch import ElasticsearchSink
from dogwatch.logs.sinks.file import FileSink
from dogwatch.logs.sinks.http import HttpSink
from dogwatch.logs.sinks.kafka import KafkaSink
from dogwatch.logs.sinks.loki import LokiSink
from dogwatch.logs.sinks.nats import NatsSink
from dogwatch.logs.sinks.otlp import OtlpSink
from dogwatch.logs.sinks.s3 import S3Sink
from dogwatch.logs.sinks.stdout import StdoutSink
from dogwatch.logs.sinks.store import StoreSink
from dogwatch.logs.sinks.syslog import SyslogSink

SINKS: Registry[Sink] = Registry(
    "log_sink",
    StdoutSink,
    FileSink,
    StoreSink,
    HttpSink,
    LokiSink,
    ElasticsearchSink,
    KafkaSink,
    NatsSink,
    OtlpSink,
    SyslogSink,
    ClickhouseSink,
    S3Sink,
)
