"""Which workers are lost: those whose heartbeats this process has seen stand still for as long as they may."""

from __future__ import annotations

from collections.abc import Sequence

# A process that has not looked for longer has missed heartbeats: it begins to watch anew.
_LONGEST_GAP_S = 5.0


class Watch:
    """Compares what a worker wrote with the observer's own monotonic clock, as leases of Kubernetes are watched.

    No two clocks are compared: a wall clock that jumps, here or at the database, loses nobody. Time in which the
    database could not be used, in which nobody's heartbeat could arrive, does not count either.
    """

    def __init__(self) -> None:
        self._seen: dict[str, tuple[int, float]] = {}
        self._looked_s: float | None = None

    def blind(self) -> None:
        """The database could not be used: what stood still meanwhile says nothing."""
        self._seen.clear()
        self._looked_s = None

    def silent(self, workers: Sequence[tuple[str, int, float, str]], now_s: float, opening: str) -> dict[str, int]:
        """Return the workers that are lost, with the heartbeats that were counted.

        workers: (id, beats, ttl_s, opening). now_s: monotonic.
        """
        longest = max((ttl_s for _, _, ttl_s, _ in workers), default=0.0)
        if self._looked_s is not None and now_s - self._looked_s > max(2 * longest, _LONGEST_GAP_S):
            self._seen.clear()
        self._looked_s = now_s
        seen, self._seen = self._seen, {}
        lost = {}
        for worker_id, beats, ttl_s, its_opening in workers:
            before = seen.get(worker_id)
            since_s = before[1] if before is not None and before[0] == beats else now_s
            self._seen[worker_id] = (beats, since_s)
            if now_s - since_s >= ttl_s or (opening and its_opening != opening):
                lost[worker_id] = beats
        return lost
