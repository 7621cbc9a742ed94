"""Sections as the real ones are made, for the tests of the loader: probes of two kinds, a server, notify, rules."""

from __future__ import annotations

import asyncio
import enum
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal

import msgspec
from msgspec import Meta

from dogwatch.config.build import Catalog
from dogwatch.config.files import Reading, SecretFiles, SourceFile
from dogwatch.config.load import Loaded, Loader
from dogwatch.config.overrides import Override
from dogwatch.config.section import Fault, Section
from dogwatch.core.component import Component, Registry
from dogwatch.core.units import Bytes, Expression, Ratio, Seconds, Secret
from dogwatch.errors import ConfigError

Name = Annotated[str, Meta(pattern=r"^[A-Za-z0-9_.-]+$", max_length=64, description="a name of letters and digits")]


class Probe(Component, frozen=True, kw_only=True):
    """Asks a target. expect: CEL that must be true."""

    expect: Expression | None = None


class HttpProbe(Probe, frozen=True, kw_only=True):
    """Asks a web server.

    url: where to. method: the HTTP method. password: sent as basic authentication.
    body_limit: what is read of the answer.
    """

    kind: ClassVar[str] = "http"
    short: ClassVar[str] = "url"
    url: str
    method: Literal["GET", "HEAD", "POST"] = "GET"
    headers: dict[str, str] = {}  # noqa: RUF012 - msgspec copies defaults
    password: Secret | None = None
    body_limit: Bytes = 65536
    follow: bool = True
    statuses: list[Annotated[int, Meta(ge=100, le=599)]] = []  # noqa: RUF012

    def __post_init__(self) -> None:
        if self.url.startswith("ftp:"):
            raise ValueError("ftp is not spoken here")


class TcpProbe(Probe, frozen=True, kw_only=True):
    """Opens a TCP connection."""

    kind: ClassVar[str] = "tcp"
    host: str
    port: Annotated[int, Meta(ge=1, le=65535)]


class IcmpProbe(Probe, frozen=True, kw_only=True):
    """Sends an echo request."""

    kind: ClassVar[str] = "icmp"
    count: int = 1


class Target(msgspec.Struct, frozen=True, kw_only=True):
    """One thing to watch. name: of the target. every: between attempts."""

    name: Name
    probe: Probe
    every: Seconds = 15.0
    failures: Annotated[int, Meta(ge=1)] = 3
    labels: dict[str, str] = {}
    depends_on: list[str] = []
    version: str | None = None
    port: int | str | None = None


class Level(enum.Enum):
    INFO = "info"
    WARNING = "warning"


class Server(msgspec.Struct, frozen=True, kw_only=True):
    """listen: address and port. token: who has it may change things."""

    listen: str = "127.0.0.1:8700"
    workers: Annotated[int, Meta(ge=1, le=64)] = 2
    token: Secret | None = None
    level: Level = Level.INFO
    grace: Seconds | None = None
    share: Ratio = 0.5
    debug: bool = False
    origins: frozenset[str] = frozenset()
    window: tuple[int, str] | None = None


class Action(Component, frozen=True, kw_only=True):
    """Does something."""


class Ssh(Action, frozen=True, kw_only=True):
    """Runs a command."""

    kind: ClassVar[str] = "ssh"
    run: str


class Rule(msgspec.Struct, frozen=True, kw_only=True):
    """What to do when. when: CEL. do: in this order."""

    name: str
    when: Expression
    do: list[Action] = []
    extra: dict[str, Any] = {}


class Channel(Component, frozen=True, kw_only=True):
    """Tells somebody."""


class Slack(Channel, frozen=True, kw_only=True):
    """Tells a Slack room."""

    kind: ClassVar[str] = "slack"
    webhook: Secret


def check_probes(targets: Sequence[Target]) -> Iterable[Fault]:
    names = [target.name for target in targets]
    for index, target in enumerate(targets):
        if target.name in names[:index]:
            yield Fault((index, "name"), f"two probes are named '{target.name}'")
        for at, other in enumerate(target.depends_on):
            if other not in names:
                yield Fault((index, "depends_on", at), f"there is no probe '{other}'")
        if target.probe.expect is not None and "==" not in target.probe.expect:
            yield Fault((index, target.probe.kind, "expect"), "not a comparison", "write ==")


PROBES = Section[list[Target]](
    key="probes",
    type=list[Target],
    doc="What is watched.",
    default=list,
    families={Probe: Registry("probe", HttpProbe, TcpProbe, IcmpProbe)},
    check=check_probes,
    example="- name: shop\n  http: {url: https://shop.example/health, expect: 'status == 200'}\n  every: 15s",
)
SERVER = Section[Server](key="server", type=Server, doc="The web server of console and API.", default=Server)
RULES = Section[list[Rule]](
    key="rules", type=list[Rule], doc="Decisions.", default=list, families={Action: Registry("action", Ssh)}
)
NOTIFY = Section[dict[str, Channel]](
    key="notify",
    type=dict[str, Channel],
    doc="Who is told.",
    default=dict,
    families={Channel: Registry("channel", Slack)},
)
SECTIONS: tuple[Section[Any], ...] = (PROBES, SERVER, RULES, NOTIFY)
CATALOG = Catalog(SECTIONS)


def read(
    *texts: str | bytes,
    environ: Mapping[str, str] | None = None,
    overrides: Sequence[Override] = (),
    secrets: Mapping[str, bytes] | None = None,
) -> Loaded:
    """Load texts as files a.yaml, b.yaml… Raises: ConfigError."""

    def read_secret(path: object) -> bytes:
        try:
            return (secrets or {})[str(path)]
        except KeyError:
            raise FileNotFoundError(2, "No such file or directory") from None

    files = tuple(
        SourceFile(f"{chr(97 + index)}.yaml", text if isinstance(text, bytes) else text.encode())
        for index, text in enumerate(texts)
    )
    loader = Loader([], CATALOG, environ=environ or {}, overrides=overrides)
    return loader.validate(loader.parse_reading(Reading(files=files), SecretFiles(read_secret)))


async def until(condition: Callable[[], object]) -> None:
    """Let everything else run until the condition holds."""
    async with asyncio.timeout(60):
        while not condition():  # noqa: ASYNC110 - what is waited for sets no event
            await asyncio.sleep(0.001)


def problems(*texts: str | bytes, **inputs: Any) -> list[str]:
    """Return what is wrong with texts, one line each; [] for nothing."""
    try:
        read(*texts, **inputs)
    except ConfigError as error:
        return [str(problem) for problem in error.problems]
    return []
