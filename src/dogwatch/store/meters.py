"""The store's own metrics."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable

from dogwatch.core.metrics import Family, series
from dogwatch.store.batch import Batch
from dogwatch.store.intake import TABLES, Intake
from dogwatch.store.ledger import ROW_BYTES, Ledger

_BOUNDS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)


def _by_table(name: str, tables: Iterable[str]) -> dict[str, str]:
    return {table: series(name, {"table": table}) for table in tables}


class Meters:
    """Counts commits. lag_s: age of the oldest row that is not rolled up yet; it is added at each query."""

    def __init__(self, intake: Intake, ledger: Ledger, file_bytes: int) -> None:
        self.failures = 0
        self.lag_s = 0.0
        self._intake = intake
        self._ledger = ledger
        self._file_bytes = file_bytes
        self._written = dict.fromkeys(TABLES, 0)
        self._commits = [0] * (len(_BOUNDS_S) + 1)
        self._commit_s = 0.0
        self._names = {
            name: _by_table(f"dogwatch_store_{name}", TABLES)
            for name in ("rows_written_total", "rows_lost_total", "buffer_rows", "buffer_capacity_rows")
        }
        self._held = {name: _by_table(f"dogwatch_store_{name}", ROW_BYTES) for name in ("table_rows", "table_bytes")}

    def committed(self, batch: Batch, duration_s: float, file_bytes: int) -> None:
        for table, count in batch.counts().items():
            self._written[table] += count
        self._commits[bisect_left(_BOUNDS_S, duration_s)] += 1
        self._commit_s += duration_s
        self._file_bytes = file_bytes

    def families(self, *, trouble: bool) -> list[Family]:
        intake, ledger = self._intake, self._ledger
        capacity = {table: intake.capacity(table) for table in TABLES}
        return [
            self._tables("rows_written_total", "counter", "Rows committed.", self._written),
            self._tables("rows_lost_total", "counter", "Rows refused or given up.", intake.lost),
            self._tables("buffer_rows", "gauge", "Rows that wait for the disk.", intake.waiting),
            self._tables("buffer_capacity_rows", "gauge", "Rows that may wait for the disk.", capacity),
            self._holds("table_rows", "Rows on disk; of raw history, blocks.", ledger.rows),
            self._holds("table_bytes", "Bytes on disk, by the store's own account.", ledger.bytes),
            self._commit_family(),
            _one("commit_failures_total", "counter", "Commits that failed.", self.failures),
            _one("file_bytes", "gauge", "Size of the file and its log.", self._file_bytes),
            _one("trouble", "gauge", "1 while writing fails or rows are lost.", int(trouble)),
            _one("rollup_lag_seconds", "gauge", "Age of the oldest row that is not rolled up yet.", self.lag_s),
            _one("series", "gauge", "Sample series that have history.", intake.series_count),
        ]

    def _tables(self, name: str, kind: str, text: str, values: dict[str, int]) -> Family:
        pairs = [(shown, float(values[table])) for table, shown in self._names[name].items()]
        return Family(f"dogwatch_store_{name}", kind, text, pairs)

    def _holds(self, name: str, text: str, values: dict[str, int]) -> Family:
        pairs = [(shown, float(values[table])) for table, shown in self._held[name].items()]
        return Family(f"dogwatch_store_{name}", "gauge", text, pairs)

    def _commit_family(self) -> Family:
        name = "dogwatch_store_commit_duration_seconds"
        pairs: list[tuple[str, float]] = []
        total = 0
        for bound, count in zip((*map(str, _BOUNDS_S), "+Inf"), self._commits, strict=True):
            total += count
            pairs.append((f'{name}_bucket{{le="{bound}"}}', float(total)))
        pairs += [(f"{name}_sum", self._commit_s), (f"{name}_count", float(total))]
        return Family(name, "histogram", "Time that commits took.", pairs)


def _one(name: str, kind: str, text: str, value: float) -> Family:
    return Family(f"dogwatch_store_{name}", kind, text, [(f"dogwatch_store_{name}", float(value))])
