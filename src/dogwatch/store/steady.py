"""Whether the wall clock can be believed before history is deleted by it. Pure state, no clock of its own."""

from __future__ import annotations

# Between two looks the hands may differ by this much: NTP slews less. A machine that slept differs by its sleep.
JUMP_S = 5.0
# A jump must last this long before history is deleted by the new time: a wrong clock is mostly mended by then.
SETTLE_S = 3600.0
# After a restart the time since the last commit is believed up to this.
DOWNTIME_S = 86_400.0


class SteadyTime:
    """Follows the wall clock by the monotonic one.

    last_s: the wall clock at the last commit, or None where there is no history.
    """

    def __init__(self, *, now_s: float, monotonic_s: float, last_s: float | None) -> None:
        self._now_s = now_s
        self._monotonic_s = monotonic_s
        believed = last_s is None or -JUMP_S <= now_s - last_s <= DOWNTIME_S
        self._settled_at = monotonic_s if believed else monotonic_s + SETTLE_S

    def observe(self, *, now_s: float, monotonic_s: float) -> bool:
        """Look at both hands; return whether the wall clock jumped (or the machine slept) since the last look."""
        jumped = abs((now_s - self._now_s) - (monotonic_s - self._monotonic_s)) > JUMP_S
        self._now_s = now_s
        self._monotonic_s = monotonic_s
        if jumped:
            self._settled_at = monotonic_s + SETTLE_S
        return jumped

    def believed_s(self) -> float | None:
        """Return the time by which history may be deleted; None while the clock is not believed."""
        return self._now_s if self._monotonic_s >= self._settled_at else None
