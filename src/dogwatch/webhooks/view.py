"""What web and command line may ask of webhooks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from dogwatch.access.actor import Actor
from dogwatch.engine.values import Page
from dogwatch.errors import DogwatchError
from dogwatch.webhooks.delivery import Answer, Delivery, DeliveryDetail, EndpointView
from dogwatch.webhooks.request import RawRequest


class HookRefusal(DogwatchError):
    """A request that is turned away. status: what is answered. retry_after_s: when it may come again, or None."""

    code = "refused"

    def __init__(self, status: int, message: str, *, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.retry_after_s = retry_after_s


class Admission(Protocol):
    """A request that may send its body."""

    @property
    def max_size(self) -> int: ...

    def hold(self, size: int) -> None:
        """Count bytes that were received. Raises: HookRefusal over the endpoint's size, or all memory for bodies."""
        ...

    def release(self) -> None:
        """The request is over; the memory is free again. Safe to call twice."""
        ...


class HooksView(Protocol):
    """Raises everywhere: TransientError while the database cannot be used."""

    def admit(self, name: str, *, remote: str, length: int | None) -> Admission:
        """Say before the body is read whether it will be. length: what the sender says it is.

        Raises: HookRefusal.
        """
        ...

    async def deliver(self, name: str, request: RawRequest) -> Answer:
        """Return once the delivery, and the run it starts, are on disk.

        Raises: HookRefusal.
        """
        ...

    async def endpoints(self) -> Sequence[EndpointView]: ...

    async def endpoint(self, name: str) -> EndpointView:
        """Raises: NotFound."""
        ...

    async def deliveries(
        self,
        *,
        endpoint: str = "",
        state: str = "",
        limit: int = 50,
        cursor: str = "",
        among: Sequence[str] | None = None,
        count: bool = False,
    ) -> Page[Delivery]:
        """among: of these endpoints only; None for all. count: say how many there are on all pages."""
        ...

    async def delivery(self, delivery_id: str) -> DeliveryDetail:
        """delivery_id: whole, or a beginning that only one has. Raises: NotFound."""
        ...

    async def replay(self, delivery_id: str, actor: Actor, *, force: bool = False) -> Delivery:
        """Take the same payload again, by the configuration in force, as a new delivery with a new run.

        force: whatever the filter says. Raises: NotFound.
        """
        ...
