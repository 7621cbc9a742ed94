"""Scripts on hosts of the fleet, for features that only want to look at one."""

from __future__ import annotations

from dogwatch.errors import DogwatchError, TransientError
from dogwatch.fleet.connection import UNTOUCHED, HostFailed
from dogwatch.fleet.login import Login, login_of
from dogwatch.fleet.part import FleetPart
from dogwatch.fleet.run import FleetRun, Order

_CONNECT_S = 10.0


class FleetShell:
    """Runs a script on one host, by SSH or as the inventory says."""

    def __init__(self, fleet: FleetPart) -> None:
        self._fleet = fleet

    async def knows(self, host: str) -> bool:
        try:
            return host in (await self._fleet.inventory()).hosts
        except DogwatchError:
            return False

    async def run(self, host: str, script: str, *, timeout_s: float, limit_bytes: int) -> tuple[bytes, str]:
        """Return what it wrote, and what kept it from its end. Raises: DogwatchError."""
        inventory = await self._fleet.inventory()
        logins: dict[str, Login | HostFailed] = {host: login_of(host, inventory.variables(host))}
        # Kept connections: who looks at a host again and again does not log in each time.
        pool = self._fleet.pool(connect_timeout_s=_CONNECT_S)
        order = Order(script=script, forks=1, timeout_s=timeout_s, deadline_s=timeout_s, limit_bytes=2 * limit_bytes)
        (result,) = await FleetRun(order, logins, pool).run()
        if result.state in UNTOUCHED:
            raise TransientError(f"{host} cannot be looked at: {result.word} {result.message}".strip())
        return result.stdout[:limit_bytes], "" if result.ok else f"{result.word} {result.message}".strip()
