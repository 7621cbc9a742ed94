"""Opening files that are followed: what may not be read is said once, and descriptors are left to others."""

from __future__ import annotations

import logging
import os
import resource
from collections import Counter

from dogwatch.errors import reason_of
from dogwatch.logs.tail.finding import Found
from dogwatch.logs.tail.identity import Plain, Readable
from dogwatch.logs.tail.packed import Packed

_log = logging.getLogger(__name__)
_OTHERS = 128


class Opener:
    """counts: of the source; `too_many` is added to."""

    def __init__(self, source: str, counts: Counter[str]) -> None:
        self._source = source
        self._counts = counts
        self._denied: set[str] = set()
        self._said = False
        # Descriptors are numbered from the lowest that is free: the number says how many there are.
        soft, _hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        unlimited = soft in {resource.RLIM_INFINITY, -1}
        self._last_fd = 2**31 if unlimited else max(soft // 2, soft - _OTHERS)

    def open(self, one: Found) -> Readable | None:
        """Open a file, or return None where that is not possible now, or its name has moved on."""
        try:
            if one.packed:
                return Packed(one.path)
            file = Plain(one.path)
        except (OSError, ImportError) as error:
            if one.path not in self._denied:
                self._denied.add(one.path)
                _log.warning("cannot read %s: %s", one.path, reason_of(error).partition(":")[0])
            return None
        self._denied.discard(one.path)
        if file.fd > self._last_fd:
            file.close()
            self._refuse()
            return None
        now = os.fstat(file.fd)
        if (now.st_dev, now.st_ino) != one.place:
            file.close()  # rotated since we looked: the next search sees it
            return None
        return file

    def _refuse(self) -> None:
        """Leave descriptors to the checkpoint and the sinks: without them nothing would go on."""
        self._counts["too_many"] += 1
        if not self._said:
            self._said = True
            _log.error(
                "%s: more files than may be open at once (%d in this process); the others are read as these go away. "
                "Raise the limit of open files (LimitNOFILE=, ulimit -Hn)",
                self._source,
                self._last_fd + 1,
            )
