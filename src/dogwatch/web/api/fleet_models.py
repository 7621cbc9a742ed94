"""What the API takes and gives of fleet runs and their hosts."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

Text = Annotated[str, Meta(max_length=100_000)]
Words = Annotated[str, Meta(max_length=200)]


class FleetHostOut(msgspec.Struct, frozen=True, kw_only=True):
    """A host of the inventory. last_*: when a command last ended there, how, and in which run."""

    host: str
    address: str
    groups: list[str]
    labels: dict[str, str]
    last_seen_s: float | None
    last_state: str
    last_run: str


class FleetHostPage(msgspec.Struct, frozen=True, kw_only=True):
    items: list[FleetHostOut]
    total: int
    next_cursor: str


class FleetRunOut(msgspec.Struct, frozen=True, kw_only=True):
    """A command over hosts. counts: hosts by how they are. failed: how many of them failed."""

    run: str
    run_id: str
    step: str
    state: str
    reason: str
    what: str
    targets: str
    actor: str
    retry_of: str
    attempt: int
    created_s: float
    ended_s: float | None
    hosts_total: int
    failed: int
    counts: dict[str, int]


class FleetRunPage(msgspec.Struct, frozen=True, kw_only=True):
    items: list[FleetRunOut]
    next_cursor: str


class FleetResultOut(msgspec.Struct, frozen=True, kw_only=True):
    """A host of a run. state: waiting, running, or how it ended. place: in the order of the run."""

    host: str
    place: int
    state: str
    attempt: int
    batch: int
    exit_code: int | None
    signal: str
    stdout: str
    stderr: str
    output_cut_bytes: int
    message: str
    hint: str
    connect_s: float
    run_s: float
    begun_s: float | None
    ended_s: float | None


class FleetResultPage(msgspec.Struct, frozen=True, kw_only=True):
    """In order. next_cursor: "" on the last page."""

    items: list[FleetResultOut]
    next_cursor: str = ""


class FleetRunIn(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A command and where to run it: command or script. Or a file that was sent to `/api/v1/fleet/files`: copy, its
    id, to be put at `to`. Or fetch: the path of a file there, to be got from the run. The rest as the options of
    `dogwatch fleet run`.
    """

    targets: Text
    command: Text = ""
    script: Annotated[str, Meta(max_length=500_000)] = ""
    copy: Words = ""
    to: Text = ""
    mode: Annotated[str, Meta(pattern="^[0-7]{1,4}$")] = "644"
    fetch: Text = ""
    args: list[Text] = []
    limit: Text = ""
    env: dict[str, str] = {}
    user: Words = ""
    sudo: bool = False
    sudo_user: Words = ""
    forks: Annotated[int, Meta(ge=1, le=2000)] = 50
    timeout: Words = "60s"
    connect_timeout: Words = "10s"
    deadline: Words = ""
    batch: Words = ""
    max_fail: Words = "100%"
    output_limit: Words = "256KiB"
    accept_new_host_keys: bool = False
    reason: Annotated[str, Meta(max_length=2000)] = ""


class FleetAgainIn(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """what: `failed`: the hosts that failed; `rest`: those that had no turn, or were ended by us."""

    what: Literal["failed", "rest"] = "failed"


class FleetPieceIn(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A piece of a file that is to be copied to hosts. file: its id, "" with the first. place: from 0. data: base64."""

    file: Words = ""
    place: Annotated[int, Meta(ge=0, le=10_000)] = 0
    data: str


class FleetFileOut(msgspec.Struct, frozen=True, kw_only=True):
    file: str


class FleetPieceOut(msgspec.Struct, frozen=True, kw_only=True):
    """A piece of a file that was fetched. data: base64. more: there is another behind it."""

    data: str
    more: bool
