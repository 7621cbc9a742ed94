"""The `engine` section: how runs are carried out and kept."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Annotated

import msgspec
from msgspec import Meta

from dogwatch.config.section import Fault, Section
from dogwatch.core.units import Bytes, Seconds, Secret
from dogwatch.engine.book.output import DEFAULT_BYTES
from dogwatch.engine.book.retention import Keeping

_LABEL = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._/-]{0,61}[A-Za-z0-9])?")
_MIN_KEY = 16


class EngineOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How runs of jobs are carried out and kept.

    work: whether this process carries out runs; false where only `dogwatch worker run` does.
    slots: runs at the same time. labels: of this worker; jobs ask for them in `worker`.
    ttl: a worker without a heartbeat for so long is lost: others take over its runs. grace: how long a stop lets steps
    finish; what does not is made again. poll: how often to look for runs, should a notice be lost.
    keep: how long ended runs are kept, where their job says nothing else. keep_runs: and at most so many in all.
    keep_per_job: and of each job. output: kept of one run; of more, the middle is left out.
    key: seals secret parameters. "": a key of its own beside the file of the state; on PostgreSQL every process needs
    the same one, of 16 characters or more.
    """

    work: bool = True
    slots: Annotated[int, Meta(ge=1, le=1000)] = 10
    labels: Mapping[str, str] = {}
    ttl: Seconds = 5.0
    grace: Seconds = 8.0
    poll: Seconds = 1.0
    keep: Seconds = Keeping().age_s
    keep_runs: Annotated[int, Meta(ge=1)] = Keeping().total
    keep_per_job: Annotated[int, Meta(ge=1)] = Keeping().per_job
    output: Bytes = DEFAULT_BYTES
    key: Secret = ""

    @property
    def keeping(self) -> Keeping:
        return Keeping(age_s=self.keep, per_job=self.keep_per_job, total=self.keep_runs)


def _check(options: EngineOptions) -> Iterable[Fault]:
    for name, value in options.labels.items():
        if not _LABEL.fullmatch(name) or not value or not value.isprintable() or len(value) > 200:
            hint = "names have letters, digits, '.', '_', '/' and '-'; values 1 to 200 printable characters"
            yield Fault(("labels", name), f"'{name[:60]}' cannot be a label", hint)
    if options.key and len(options.key) < _MIN_KEY:
        yield Fault(("key",), f"is shorter than {_MIN_KEY} characters", "`openssl rand -base64 32` makes one")
    if not 1 <= options.ttl <= 600:
        yield Fault(("ttl",), "must be between 1s and 10m")
    if not 0.05 <= options.poll <= 60:
        yield Fault(("poll",), "must be between 50ms and 1m")
    if options.output < 64 * 1024:
        yield Fault(("output",), "must be at least 64KiB")


ENGINE: Section[EngineOptions] = Section(
    key="engine",
    type=EngineOptions,
    doc="How runs of jobs are carried out and kept.",
    default=EngineOptions,
    check=_check,
)
