"""The `wasm` transform: a WebAssembly module of the user's own, with bounded time and memory."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, ClassVar

import msgspec

from dogwatch.core.units import Bytes, Seconds
from dogwatch.logs.transform import Step, Transform

if TYPE_CHECKING:
    import polars as pl

# Fuel is spent by about one for an instruction: the same bound on every machine, and no thread that watches a clock.
# Measured at about 10⁹ a second; slower machines take longer for it.
_FUEL_A_SECOND = 500_000_000
_ENCODER = msgspec.json.Encoder(enc_hook=str)


class WasmTransform(Transform, frozen=True, kw_only=True):
    """Gives each block of records to a WebAssembly module, as JSON lines, and takes JSON lines back: as many, in their
    order; an empty line drops its record. The module has no files, no network and no clock.

    It exports `memory`, `alloc(size: i32) -> i32`, and `transform(pointer: i32, size: i32) -> i64`, which returns where
    its answer is: pointer in the upper half, size in the lower. Where it fails, runs too long or asks for too much
    memory, records pass unchanged and are counted, and it begins anew.

    module: path of the .wasm or .wat file. timeout: of one block. memory: what it may have at most.
    """

    kind: ClassVar[str] = "wasm"
    short: ClassVar[str] = "module"
    module: str
    timeout: Seconds = 1.0
    memory: Bytes = 64 * 1024 * 1024

    def faults(self) -> Iterable[tuple[tuple[str | int, ...], str, str]]:
        if not self.module.startswith("/"):
            yield ("module",), "is not an absolute path", "/etc/dogwatch/shop.wasm"
        if self.timeout <= 0:
            yield ("timeout",), "is no time", "1s"

    def open(self) -> Step:
        return _Wasm(self)


class _Wasm:
    def __init__(self, options: WasmTransform) -> None:
        self._options = options
        self._lock = threading.Lock()
        self._engine: Any = None
        self._module: Any = None
        self._instance: _Instance | None = None
        self.counts = {"dropped": 0, "failed": 0}
        self.problem = ""

    def apply(self, frame: pl.DataFrame) -> pl.DataFrame:
        names = [name for name in frame.columns if not name.startswith("@")]
        rows = [{k: v for k, v in row.items() if v is not None} for row in frame.select(names).iter_rows(named=True)]
        with self._lock:
            try:
                answer = self._call(_ENCODER.encode_lines(rows))
                found = _read(answer, len(rows))
            except _Failed as error:
                self._instance = None
                self.counts["failed"] += frame.height
                self.problem = str(error)
                return frame
        return self._replaced(frame, found)

    def _replaced(self, frame: pl.DataFrame, found: list[dict[str, Any] | None]) -> pl.DataFrame:
        import polars as pl

        flags = pl.Series([one is not None for one in found], dtype=pl.Boolean)
        kept = [one for one in found if one is not None]
        own = frame.select([name for name in frame.columns if name.startswith("@")]).filter(flags)
        self.counts["dropped"] += len(found) - len(kept)
        names = dict.fromkeys(name for one in kept for name in one if not name.startswith("@"))
        columns = []
        for name in names:
            values = [one.get(name) for one in kept]
            try:
                columns.append(pl.Series(name, values, strict=True))
            except (TypeError, ValueError, OverflowError, pl.exceptions.PolarsError):
                texts = [v if v is None or isinstance(v, str) else _ENCODER.encode(v).decode() for v in values]
                columns.append(pl.Series(name, texts, dtype=pl.String))
        return own.with_columns(columns)

    def _call(self, data: bytes) -> bytes:
        import wasmtime

        try:
            if self._instance is None:
                self._instance = self._begin()
            return self._instance.call(data)
        except (wasmtime.WasmtimeError, wasmtime.Trap, OSError, ValueError, TypeError, IndexError) as error:
            raise _Failed(str(error).partition("\n")[0]) from None

    def _begin(self) -> _Instance:
        import wasmtime

        if self._engine is None:
            config = wasmtime.Config()
            config.consume_fuel = True
            config.parallel_compilation = False
            self._engine = wasmtime.Engine(config)
            self._module = wasmtime.Module.from_file(self._engine, self._options.module)
        return _Instance(self._engine, self._module, self._options)


class _Failed(Exception):
    """The module did not answer as it should."""


class _Instance:
    """A module with its memory. Fuel bounds its time: an instruction or so for each."""

    def __init__(self, engine: Any, module: Any, options: WasmTransform) -> None:
        import wasmtime

        self._store = wasmtime.Store(engine)
        self._store.set_limits(memory_size=options.memory)
        self._fuel = max(1_000_000, round(options.timeout * _FUEL_A_SECOND))
        self._store.set_fuel(self._fuel)
        exports = wasmtime.Instance(self._store, module, []).exports(self._store)
        memory, alloc, transform = (exports.get(one) for one in ("memory", "alloc", "transform"))
        if not isinstance(memory, wasmtime.Memory):
            raise ValueError("it exports no memory")
        if not isinstance(alloc, wasmtime.Func) or not isinstance(transform, wasmtime.Func):
            raise ValueError("it does not export alloc and transform")
        self._memory, self._alloc, self._transform = memory, alloc, transform

    def call(self, data: bytes) -> bytes:
        self._store.set_fuel(self._fuel)
        pointer = self._alloc(self._store, len(data)) & 0xFFFFFFFF
        self._memory.write(self._store, data, pointer)
        answer = self._transform(self._store, pointer, len(data)) & 0xFFFFFFFFFFFFFFFF
        begin, size = answer >> 32, answer & 0xFFFFFFFF
        if begin + size > self._memory.data_len(self._store):
            raise ValueError("its answer is outside of its memory")
        return bytes(self._memory.read(self._store, begin, begin + size))


def _read(answer: bytes, count: int) -> list[dict[str, Any] | None]:
    lines = answer.split(b"\n")
    if lines and not lines[-1]:
        lines.pop()
    if len(lines) != count:
        raise _Failed(f"it answered {len(lines)} lines for {count}")
    try:
        return [msgspec.json.decode(line, type=dict[str, Any]) if line else None for line in lines]
    except msgspec.MsgspecError as error:
        raise _Failed(f"it answered no JSON: {error}") from None
