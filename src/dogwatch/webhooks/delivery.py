"""What is kept and shown of deliveries."""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence

import msgspec


class DeliveryState(enum.StrEnum):
    """accepted: it has a run. ignored: the filter or its being a ping. refused: mapping, parameters or the job's
    concurrency; the reason says which. duplicate: only answered, never kept.
    """

    ACCEPTED = "accepted"
    IGNORED = "ignored"
    REFUSED = "refused"
    DUPLICATE = "duplicate"


class Delivery(msgspec.Struct, frozen=True, kw_only=True):
    """A request that was signed as it should be. source_id: what the sender calls it. duplicates: how often it came
    again. replay_of: the delivery whose payload this is; actor: who asked for that.
    """

    delivery_id: str
    endpoint: str
    state: DeliveryState
    reason: str = ""
    event: str = ""
    source_id: str = ""
    remote: str = ""
    run_id: str = ""
    replay_of: str = ""
    actor: str = ""
    received_s: float
    size_bytes: int = 0
    duplicates: int = 0


class DeliveryDetail(msgspec.Struct, frozen=True, kw_only=True):
    """One delivery with its content. Secrets are masked. text: of the body, cut at 256 KiB. withheld: why it is not
    shown, where it is not.
    """

    delivery: Delivery
    headers: Mapping[str, str]
    query: Mapping[str, str]
    text: str
    truncated: bool = False
    withheld: str = ""


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """What the sender is told. status: of HTTP. state: accepted, ignored, refused, duplicate or pong."""

    status: int
    id: str
    state: str
    run: str = ""


class Rejection(msgspec.Struct, frozen=True, kw_only=True):
    """A request that was turned away, and why; the newest few are kept in memory, to find out what is wrong."""

    time_s: float
    remote: str
    status: int
    reason: str


class EndpointView(msgspec.Struct, frozen=True, kw_only=True):
    """An endpoint as it is now. counts: outcome → how many since the start of this process."""

    name: str
    job: str
    signature: str
    path: str
    filter: str = ""
    parameters: Sequence[str] = ()
    labels: Mapping[str, str] = {}
    paused: bool = False
    counts: Mapping[str, int] = {}
    rejections: Sequence[Rejection] = ()
    last_s: float | None = None
