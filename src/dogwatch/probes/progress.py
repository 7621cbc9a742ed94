"""How far one attempt got: what it was doing, what it heard, what it measured; and the probe base that records it."""

from __future__ import annotations

import abc
import asyncio
import errno
import logging
import os
from collections.abc import Mapping
from time import perf_counter
from typing import Any

from dogwatch.core.clock import Clock, SystemClock
from dogwatch.probes.probe import EVIDENCE_BYTES, Attempt, Cancel, Done, Evidence, Phases, Probe, ProbeResult

log = logging.getLogger(__name__)
_CLOCK = SystemClock()
_REASONS = {
    errno.ECONNREFUSED: "refused",
    errno.ENOENT: "unreachable",  # a unix socket that is not there
    errno.ECONNRESET: "reset",
    errno.EPIPE: "reset",
    errno.ECONNABORTED: "reset",
    errno.EHOSTUNREACH: "unreachable",
    errno.ENETUNREACH: "unreachable",
    errno.EHOSTDOWN: "unreachable",
    errno.ENETDOWN: "unreachable",
    errno.EADDRNOTAVAIL: "local",
    errno.EMFILE: "local",
    errno.ENFILE: "local",
    errno.EACCES: "local",
    errno.EPERM: "local",
    errno.ENOBUFS: "local",
    errno.ENOMEM: "local",
    errno.ETIMEDOUT: "timeout",
}


class ProbeFailed(Exception):
    """The target did not answer as it should; becomes the attempt's result. reason: one of REASONS."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message


def failure_of(error: OSError, what: str) -> ProbeFailed:
    """Return what a system error means for a probe: `cannot connect to db-1:22: connection refused`."""
    number = error.errno or 0
    why = os.strerror(number).lower() if number > 0 else str(error)
    return ProbeFailed(_REASONS.get(number, "local"), f"{what}: {why}")


def clock_of(attempt: Attempt) -> Clock:
    """Return the injected wall clock (`env.extra["clock"]`), or the system's."""
    clock: Clock = attempt.env.extra.get("clock", _CLOCK)
    return clock


class Progress:
    """One attempt under way. doing: the step, for the message of a timeout. heard: what the target said, bounded."""

    __slots__ = (
        "connect_s",
        "doing",
        "first_byte_s",
        "headers",
        "heard",
        "resolve_s",
        "started",
        "tls_s",
        "transfer_s",
        "truncated",
        "values",
    )

    def __init__(self) -> None:
        self.started = perf_counter()
        self.doing = "resolving"
        self.resolve_s = self.connect_s = self.tls_s = self.first_byte_s = self.transfer_s = 0.0
        self.values: dict[str, Any] = {}
        self.headers: tuple[tuple[str, str], ...] = ()
        self.heard = bytearray()
        self.truncated = False

    def hear(self, data: bytes | bytearray | memoryview) -> None:
        """Keep what the target said as evidence, up to the bound."""
        room = EVIDENCE_BYTES - len(self.heard)
        self.heard += data[:room]
        self.truncated = self.truncated or len(data) > room

    def evidence(self) -> Evidence:
        return Evidence(
            headers=self.headers, body=bytes(self.heard).decode("utf-8", "replace"), truncated=self.truncated
        )

    def phases(self) -> Phases | None:
        times = (self.resolve_s, self.connect_s, self.tls_s, self.first_byte_s, self.transfer_s)
        return Phases(*times) if any(times) else None

    def result(self, reason: str = "", message: str = "", values: Mapping[str, Any] | None = None) -> ProbeResult:
        """Return the attempt's result: a success if there is no reason."""
        return ProbeResult(
            success=not reason,
            duration_s=perf_counter() - self.started,
            reason=reason,
            message=message,
            phases=self.phases(),
            values=self.values if values is None else values,
            evidence=self.evidence,
        )


def inner_timeout(timeout_s: float) -> float:
    """Return the time for a probe's own deadline: a little before the outer one, so that it can say what it did."""
    return timeout_s - min(0.01, timeout_s * 0.02)


class SteppedProbe(Probe, frozen=True, kw_only=True):
    """A probe that goes through steps, and says at which one it failed or ran out of time.

    Not a CoroutineProbe: of two deadlines around one coroutine the outer one may win on a busy loop, and it does not
    know the step.
    """

    @abc.abstractmethod
    async def ask(self, attempt: Attempt, progress: Progress) -> None:
        """Ask the target once; fill progress.values.

        Raises: ProbeFailed, OSError for what the target did.
        """

    def launch(self, attempt: Attempt, done: Done) -> Cancel:
        async def work() -> None:
            done(await self.run(attempt))

        task = asyncio.get_running_loop().create_task(work(), name=f"probe {attempt.target}")
        attempt.env.tasks.add(task)
        task.add_done_callback(attempt.env.tasks.discard)

        def cancel() -> None:
            task.cancel()

        return cancel

    async def run(self, attempt: Attempt) -> ProbeResult:
        """Do one attempt within attempt.timeout_s; whatever happens is a result."""
        progress = Progress()
        try:
            async with asyncio.timeout(inner_timeout(attempt.timeout_s)):
                await self.ask(attempt, progress)
        except TimeoutError as error:
            # A socket's own ETIMEDOUT is a TimeoutError too.
            if error.errno:
                return progress.result("timeout", f"{self.address()}: connection timed out while {progress.doing}")
            message = f"{self.address()}: no answer within {attempt.timeout_s:g} s while {progress.doing}"
            return progress.result("timeout", message)
        except ProbeFailed as failed:
            return progress.result(failed.reason, failed.message)
        except OSError as error:
            meaning = failure_of(error, f"{self.address()}: failed while {progress.doing}")
            return progress.result(meaning.reason, meaning.message)
        except Exception as error:
            log.exception("probe %s: the probe itself failed", attempt.target)
            # Its text may hold what must not be shown; the log has it.
            return progress.result("local", f"internal error: {type(error).__name__}")
        return progress.result()
