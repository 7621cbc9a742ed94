"""Docker's Engine API over a unix socket, as far as probes need it; podman answers it, too."""

from __future__ import annotations

from typing import Any, TypeVar
from urllib.parse import quote

import msgspec

from dogwatch.probes.progress import ProbeFailed
from dogwatch.probes.stream import Stream

# What we were written against; an older engine is spoken to in its own version, a newer one in this.
API_VERSION = (1, 43)
MAX_BYTES = 16 * 1024 * 1024
T = TypeVar("T")


class EngineVersion(msgspec.Struct, rename="pascal"):
    """Answer of /version. min_api_version: oldest that it still speaks."""

    api_version: str = msgspec.field(default="1.24", name="ApiVersion")
    min_api_version: str = msgspec.field(default="1.12", name="MinAPIVersion")


class Health(msgspec.Struct, rename="pascal"):
    status: str = "none"
    failing_streak: int = 0
    log: list[HealthRun] | None = None


class HealthRun(msgspec.Struct, rename="pascal"):
    exit_code: int = 0
    output: str = ""


class State(msgspec.Struct, rename="pascal"):
    status: str = ""
    exit_code: int = 0
    started_at: str = ""
    error: str = ""
    oom_killed: bool = msgspec.field(default=False, name="OOMKilled")
    health: Health | None = None


class Config(msgspec.Struct, rename="pascal"):
    image: str = ""


class Container(msgspec.Struct, rename="pascal"):
    """Answer of /containers/{id}/json."""

    id: str
    name: str = ""
    restart_count: int = 0
    state: State = msgspec.field(default_factory=State)
    config: Config = msgspec.field(default_factory=Config)


class Listed(msgspec.Struct, rename="pascal"):
    """One line of /containers/json."""

    id: str


class _Answer:
    """What httptools fills in."""

    def __init__(self) -> None:
        self.body = bytearray()
        self.complete = False

    def on_body(self, data: bytes) -> None:
        self.body += data

    def on_message_complete(self) -> None:
        self.complete = True


class EngineApi:
    """Requests one after another on one connection."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._stream.max_read_bytes = MAX_BYTES
        self.version = ""

    async def negotiate(self) -> None:
        """Choose the API version: ours, or what the engine has where it is older or newer than we know."""
        found = await self._get("/version", EngineVersion)
        newest, oldest = _version(found.api_version), _version(found.min_api_version)
        chosen = min(max(API_VERSION, oldest), newest)
        self.version = f"/v{chosen[0]}.{chosen[1]}"

    async def container(self, name: str) -> Container:
        """Raises: ProbeFailed with reason "missing"."""
        return await self._get(f"{self.version}/containers/{quote(name, safe='')}/json", Container)

    async def labelled(self, labels: tuple[str, ...]) -> list[Listed]:
        filters = quote(msgspec.json.encode({"label": labels}).decode())
        return await self._get(f"{self.version}/containers/json?all=1&filters={filters}", list[Listed])

    async def _get(self, path: str, type_: type[T]) -> T:
        import httptools

        answer = _Answer()
        parser = httptools.HttpResponseParser(answer)
        await self._stream.send(f"GET {path} HTTP/1.1\r\nHost: docker\r\nUser-Agent: dogwatch\r\n\r\n".encode())
        try:
            while not answer.complete:
                data = await self._stream.recv()
                if not data:
                    raise ProbeFailed("reset", f"{self._stream.address}: the connection ended before the answer")
                parser.feed_data(data)
        except httptools.HttpParserError as error:
            raise ProbeFailed("protocol", f"{self._stream.address}: not an HTTP answer: {error}") from error
        status = parser.get_status_code()
        body = bytes(answer.body)
        if status != 200:
            self._stream.progress.hear(body)
            raise ProbeFailed("missing" if status == 404 else "status", _complaint(self._stream.address, status, body))
        return self._decoded(body, type_)

    def _decoded(self, body: bytes, type_: type[T]) -> T:
        try:
            return msgspec.json.decode(body, type=type_)
        except (msgspec.DecodeError, RecursionError) as error:
            self._stream.progress.hear(body)
            raise ProbeFailed("protocol", f"{self._stream.address}: unexpected answer: {error}") from error


def _version(text: str) -> tuple[int, int]:
    major, _, minor = text.partition(".")
    return (int(major), int(minor)) if major.isdigit() and minor.isdigit() else (1, 24)


def _complaint(address: str, status: int, body: bytes) -> str:
    try:
        said: Any = msgspec.json.decode(body, type=dict[str, Any]).get("message", "")
    except (msgspec.DecodeError, RecursionError):
        said = ""
    return f"{address}: {str(said)[:200] or f'status {status}'}"
