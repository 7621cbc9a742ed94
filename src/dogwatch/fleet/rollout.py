"""Which hosts come next, and when to stop: a pure decider over how the hosts before them ended."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence

import msgspec

from dogwatch.errors import UsageError

_SHARE = re.compile(r"(\d+(?:\.\d+)?)%")


class Amount(msgspec.Struct, frozen=True):
    """A number of hosts, or a share of all of them (0 to 1)."""

    count: int = 0
    share: float | None = None

    def of(self, total: int) -> int:
        """Return how many hosts it is; a share is rounded up."""
        return self.count if self.share is None else math.ceil(round(total * self.share, 6))


def parse_amount(text: str) -> Amount:
    """Return what `5` or `10%` means. Raises: UsageError."""
    match = _SHARE.fullmatch(text.strip())
    if match and float(match[1]) <= 100:
        return Amount(share=float(match[1]) / 100)
    if text.strip().isdigit():
        return Amount(int(text))
    raise UsageError(f"'{text}' is neither a number of hosts nor a share", hint="write 5 or 10%")


class Rollout(msgspec.Struct, frozen=True, kw_only=True):
    """How a command goes over the fleet.

    batches: how far each reaches, counted from the start for shares (`10%,25%,100%`) and one after the other for
    numbers (`1,5,20`); the last is repeated until all had their turn. max_fail: stop when more failed; None: never.
    """

    batches: tuple[Amount, ...] = ()
    max_fail: Amount | None = None


def parse_batches(text: str) -> tuple[Amount, ...]:
    """Return the batches of `1,5,10%,100%`. Raises: UsageError."""
    amounts = tuple(parse_amount(part) for part in text.split(",") if part.strip())
    shares = [amount.share for amount in amounts if amount.share is not None]
    if shares != sorted(set(shares)) or any(share == 0 for share in shares):
        raise UsageError(f"the shares of '{text}' must grow", hint="each says how far the batch reaches: 10%,25%,100%")
    if any(amount.share is None and amount.count < 1 for amount in amounts):
        raise UsageError("a batch has at least one host")
    return amounts


def rollout_faults(batch: str, max_fail: str) -> Iterable[tuple[tuple[str | int, ...], str, str]]:
    """Yield what is wrong with the texts of an action's fields; what a template will fill in is not known yet."""
    for name, text, parse in (("batch", batch, parse_batches), ("max_fail", max_fail, parse_amount)):
        if "{{" not in text:
            try:
                parse(text)
            except UsageError as error:
                yield (name,), str(error), error.hint


def cut_batches(hosts: Sequence[str], batches: Sequence[Amount]) -> list[tuple[str, ...]]:
    """Return the hosts of each batch, in order; every host is in exactly one."""
    total = len(hosts)
    if not batches:
        return [tuple(hosts)] if hosts else []
    cuts: list[int] = []
    at = 0
    index = 0
    while at < total:
        amount = batches[min(index, len(batches) - 1)]
        if amount.share is None:
            step = amount.of(total)
        elif index < len(batches):
            step = amount.of(total) - at
        else:
            # A last share below 100 % is the size of every further batch.
            before = batches[-2].of(total) if len(batches) > 1 and batches[-2].share is not None else 0
            step = amount.of(total) - before
        index += 1
        if step <= 0 and index < len(batches):
            continue  # a share that an earlier number has already passed
        at = min(total, at + max(1, step))
        cuts.append(at)
    return [tuple(hosts[start:end]) for start, end in zip([0, *cuts], cuts, strict=False)]


class Verdict(msgspec.Struct, frozen=True):
    """Whether to go on. reason: why not."""

    go_on: bool
    reason: str = ""


def judge(rollout: Rollout, *, total: int, failed: int) -> Verdict:
    """Say whether further hosts may be started, given how many have failed so far.

    total: of all hosts of the run. A share is of these, so that a small first batch cannot hide behind a small number.
    """
    if rollout.max_fail is None:
        return Verdict(True)
    allowed = (
        rollout.max_fail.of(total)
        if rollout.max_fail.share is None
        else math.floor(round(total * rollout.max_fail.share, 6))
    )
    if failed <= allowed:
        return Verdict(True)
    return Verdict(False, f"{failed} of {total} hosts failed, more than the {allowed} that may")
