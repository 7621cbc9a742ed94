"""A log agent in a process of its own, to be killed: `agent_process.py CONFIGURATION FOLDER`."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from dogwatch.config.load import Loader
from dogwatch.logs.agent import Agent
from dogwatch.logs.section import LOGS


async def _run(config: str, folder: str) -> None:
    spec = Loader([config], [LOGS], environ={}).load().get(LOGS)
    agent = Agent(spec, Path(folder))
    await agent.start()
    print("ready", flush=True)
    await asyncio.to_thread(sys.stdin.readline)
    await agent.stop()


if __name__ == "__main__":
    asyncio.run(_run(sys.argv[1], sys.argv[2]))
