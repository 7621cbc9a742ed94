"""How much each caller may ask for: a token bucket each, of a bounded number of callers."""

from __future__ import annotations

from collections import OrderedDict

from dogwatch.access.identity import Identity
from dogwatch.core.bucket import TokenBucket
from dogwatch.web.options import RateOptions, is_loopback

_CALLERS = 10_000
_FREE = ("/ping/", "/hooks/", "/static/", "/healthz", "/readyz")


class Rates:
    """Counts requests. Of more callers than are kept, those that asked longest ago begin anew."""

    def __init__(self, options: RateOptions) -> None:
        self._options = options
        self._buckets: OrderedDict[str, TokenBucket] = OrderedDict()

    def wait_s(self, identity: Identity, path: str, now_s: float, *, forwarded: bool) -> float:
        """Count a request, and return 0; or return how long until it would be let through.

        forwarded: through a proxy, whose address says nothing about who asks.
        """
        address = identity.actor.address
        if path.startswith(_FREE) or (not self._options.local and not forwarded and is_loopback(address)):
            return 0.0
        if not identity.known and forwarded:
            return 0.0
        key = str(identity.actor) if identity.known else f"address:{address}"
        bucket = self._buckets.get(key)
        if bucket is None:
            options = self._options
            bucket = TokenBucket(rate_per_s=options.max / options.per, burst=float(options.max))
            self._buckets[key] = bucket
        self._buckets.move_to_end(key)
        while len(self._buckets) > _CALLERS:
            self._buckets.popitem(last=False)
        return bucket.take(now_s)
