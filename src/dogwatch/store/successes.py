"""Results that have little to say, as columns: what most attempts of every turn are."""

from __future__ import annotations


class Successes:
    """Attempts that ended well together, as columns: of each the target's name and what it took, in seconds.

    time_s: wall clock of all. status: of all their targets. Phases that are not here did not happen.
    """

    __slots__ = ("connects_s", "durations_s", "first_bytes_s", "status", "targets", "time_s")

    def __init__(self, time_s: float, status: int) -> None:
        self.time_s = time_s
        self.status = status
        self.targets: list[str] = []
        self.durations_s: list[float] = []
        self.connects_s: list[float] = []
        self.first_bytes_s: list[float] = []

    def add(self, target: str, duration_s: float, connect_s: float, first_byte_s: float) -> None:
        self.targets.append(target)
        self.durations_s.append(duration_s)
        self.connects_s.append(connect_s)
        self.first_bytes_s.append(first_byte_s)
