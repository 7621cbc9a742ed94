"""A mergeable histogram of durations, a few bytes long, so that percentiles survive roll-up.

Eight bins for each doubling of the duration: a percentile read from it is within 6 % of the true one. Its bytes are
(bin, count low, count high) for each bin that is not empty, by bin.
"""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Iterable, Sequence

_BIN = struct.Struct("<BH")
_MOST = 0xFFFF
QUANTILES = (0.5, 0.95, 0.99)


def bin_of(duration_us: int) -> int:
    """Return the bin of a duration, 0 to 255."""
    if duration_us < 8:
        return duration_us
    shift = duration_us.bit_length() - 4
    return (shift << 3) + (duration_us >> shift)


def middle_us(bin_number: int) -> float:
    """Return the duration that stands for a bin."""
    if bin_number < 16:
        return float(bin_number)
    shift = (bin_number >> 3) - 1
    return ((bin_number & 7 | 8) << shift) + (1 << shift) / 2


def count(durations_us: Iterable[int]) -> Counter[int]:
    return Counter(map(bin_of, durations_us))


def encode(bins: Counter[int]) -> bytes:
    return b"".join(_BIN.pack(number, min(bins[number], _MOST)) for number in sorted(bins))


def decode(sketch: bytes) -> Counter[int]:
    return Counter(dict(_BIN.iter_unpack(sketch)))


def quantiles_s(bins: Counter[int]) -> tuple[float, float, float] | None:
    """Return p50, p95 and p99 in seconds, or None where nothing was counted."""
    total = sum(bins.values())
    if not total:
        return None
    out = []
    ordered = sorted(bins)
    seen, position = bins[ordered[0]], 0
    for quantile in QUANTILES:
        rank = quantile * (total - 1)
        while seen <= rank and position < len(ordered) - 1:
            position += 1
            seen += bins[ordered[position]]
        out.append(middle_us(ordered[position]) / 1e6)
    return out[0], out[1], out[2]


def exact_quantiles_s(ordered_us: Sequence[int]) -> tuple[float, float, float] | None:
    """Return the same from sorted durations: each is the one that its rank falls on."""
    if not ordered_us:
        return None
    last = len(ordered_us) - 1
    first, second, third = (ordered_us[int(quantile * last)] / 1e6 for quantile in QUANTILES)
    return first, second, third
