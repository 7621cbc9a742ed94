"""A real process, real signals, both loops: graceful at the first, at once at the second."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

PROGRAM = """
import asyncio, signal, sys
import uvloop
from dogwatch.core.stop import run_until_stopped
from dogwatch.core.supervisor import Limits, Phase, Supervisor

before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}

async def main():
    supervisor = Supervisor(Limits(grace_s=float(sys.argv[2]), hook_s=1, hurry_s=0.2))
    inside = {number: signal.getsignal(number) for number in before}

    async def work():
        try:
            await asyncio.Event().wait()
        finally:
            print("cancelled", flush=True)

    def say(word):
        async def hook():
            print(word, flush=True)
        return hook

    supervisor.start("work", work())
    supervisor.on_stop(Phase.REFUSE, "listener", say("refuse"))
    supervisor.on_stop(Phase.FINISH, "jobs", lambda: asyncio.sleep(3600))
    supervisor.on_stop(Phase.FLUSH, "outbox", say("flush"))
    supervisor.on_stop(Phase.CLOSE, "store", say("close"))
    asyncio.get_running_loop().call_later(0.01, lambda: print("ready", flush=True))
    report = await run_until_stopped(supervisor)
    assert inside == {number: signal.getsignal(number) for number in before}, "handlers were not put back"
    return report.exit_code

factory = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}[sys.argv[1]]
with asyncio.Runner(loop_factory=factory) as runner:
    code = runner.run(main())
assert before == {number: signal.getsignal(number) for number in before}
sys.exit(code)
"""


def start(loop_name: str, grace_s: float) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, loop_name, str(grace_s)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONWARNINGS": "error"},
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


loops = pytest.mark.parametrize("loop_name", ["asyncio", "uvloop"])


@loops
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_one_signal_stops_within_the_grace_period(loop_name: str, number: signal.Signals, code: int) -> None:
    process = start(loop_name, 0.2)
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert out.split() == ["refuse", "cancelled", "flush", "close"], err
    assert process.returncode == code, err


@loops
def test_the_second_signal_does_not_wait(loop_name: str) -> None:
    process = start(loop_name, 3600)
    process.send_signal(signal.SIGTERM)
    assert process.stdout is not None
    assert process.stdout.readline() == "refuse\n"
    started_s = time.monotonic()
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert out.split() == ["cancelled", "flush", "close"], err
    assert process.returncode == 143, err
    assert time.monotonic() - started_s < 10
