// A log store that speaks the push protocols of Loki, Elasticsearch, OpenTelemetry and syslog, for the tests of those sinks.
module dogwatch/peers

go 1.24.4

require github.com/VictoriaMetrics/VictoriaMetrics v1.121.0
