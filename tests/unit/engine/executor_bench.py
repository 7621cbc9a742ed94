"""An executor over a ledger in memory."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from tests.engine_fakes import FakeLedger, FakeRun, PlainLanguage

from dogwatch.core.clock import SystemClock
from dogwatch.engine.action import Outcome, Scene
from dogwatch.engine.executor import Execution
from dogwatch.engine.executor_tools import Tools
from dogwatch.engine.scene import Services
from dogwatch.engine.values import StepState

S = StepState


class Bench:
    """A ledger, and executions of its runs."""

    def __init__(self) -> None:
        self.ledger = FakeLedger()
        self.services = Services()
        self.held = True

    def execution(self, run: FakeRun) -> Execution:
        tools = Tools(
            ledger=self.ledger,
            language=PlainLanguage(),
            services=self.services,
            clock=SystemClock(),
            held=lambda: self.held,
        )
        return Execution(self.ledger.claimed(run), tools)

    async def carry(self, run: FakeRun) -> FakeRun:
        async with asyncio.timeout(60):
            await self.execution(run).run()
        return run

    async def run(self, *steps: Any, **options: Any) -> FakeRun:
        return await self.carry(self.ledger.add(*steps, **options))


def states(run: FakeRun) -> dict[str, str]:
    return {name: row.state.value for name, row in run.steps.items()}


async def until(holds: Callable[[], Any]) -> None:
    async with asyncio.timeout(60):
        while not holds():  # noqa: ASYNC110 - what it looks at tells nobody
            await asyncio.sleep(0.001)


async def forever(scene: Scene) -> Outcome:
    await asyncio.Event().wait()
    raise AssertionError


def _row(run: FakeRun, name: str) -> Any:
    from dogwatch.engine.ledger import StepRow

    return StepRow(name=name, kind="do")
