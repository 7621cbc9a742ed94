"""What pages keep of what they were told."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace

from dogwatch.core.clock import ManualClock
from dogwatch.store.protocol import Availability
from dogwatch.web.context import WebContext
from dogwatch.web.options import WebOptions


class Store:
    """Knows nothing of a new target at first. asked: how often it was asked."""

    def __init__(self) -> None:
        self.ratio: float | None = None
        self.asked = 0

    async def availability(self, targets: Sequence[str], *, since_s: float, until_s: float) -> Sequence[Availability]:
        self.asked += 1
        spent = dict.fromkeys(("up_s", "degraded_s", "down_s", "maintenance_s", "paused_s", "unknown_s"), 0.0)
        return [
            Availability(target=one, since_s=since_s, until_s=until_s, ratio=self.ratio, incidents=0, **spent)
            for one in targets
        ]


async def test_what_is_unknown_of_a_new_target_is_asked_for_again_soon() -> None:
    clock, store = ManualClock(), Store()
    services = SimpleNamespace(clock=clock, store=store, maintenance=None, watch=None)
    context = WebContext(services, WebOptions(), None, None, None)  # type: ignore[arg-type]
    assert (await context.availability(["a"], "24h"))["a"].ratio is None
    assert (await context.availability(["a"], "24h"))["a"].ratio is None
    assert store.asked == 1
    store.ratio = 1.0
    clock.advance(3.0)
    assert (await context.availability(["a"], "24h"))["a"].ratio == 1.0
    store.ratio = 0.5
    clock.advance(3.0)
    assert (await context.availability(["a"], "24h"))["a"].ratio == 1.0
    assert store.asked == 2
