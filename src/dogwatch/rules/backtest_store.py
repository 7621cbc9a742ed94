"""A backtest over what a store keeps, as a rehearsal."""

from __future__ import annotations

from collections.abc import Iterable
from importlib import util

from dogwatch.errors import UsageError
from dogwatch.rules.backtest import Progress, Rehearsal, Span, Told
from dogwatch.rules.desk import Setting
from dogwatch.rules.outside.firing import Scene
from dogwatch.rules.spec import Rule
from dogwatch.store.protocol import Store

if util.find_spec("numpy") is None:
    raise UsageError("backtests compute with numpy, which is not here", hint="install dogwatch[server]")

from dogwatch.rules.rehearsal.history import rehearse_history
from dogwatch.rules.rehearsal.run import Run


async def rehearse_store(
    store: Store,
    setting: Setting,
    rules: Iterable[Rule],
    scene: Scene,
    span: Span,
    progress: Progress | None = None,
) -> Rehearsal:
    """Return what rules would have done. Raises: Stopped."""
    run, progress = Run(setting, rules, scene.nodes), progress or Progress()
    run.others.know(scene.firings)
    await rehearse_history(store, run, scene.hosts, since_s=span.since_s, until_s=span.until_s, progress=progress)
    return rehearsal_of(run, span, progress)


def rehearsal_of(run: Run, span: Span, progress: Progress) -> Rehearsal:
    kept = run.kept
    return Rehearsal(
        since_s=span.since_s,
        until_s=span.until_s,
        signals=run.signals,
        incidents=[kept.incidents[number] for number in sorted(kept.incidents)],
        notes=kept.notes,
        notices=[Told(time_s=time_s, notice=notice) for time_s, notice in kept.notices],
        fired=dict(sorted(kept.fired.items())),
        suppressed=kept.kinds["joined"],
        starts=kept.starts,
        held=kept.kinds["held"],
        planned=kept.kinds["planned"],
        lost=dict(sorted(run.lost.items())),
        dropped=dict(kept.dropped),
        busy_s=progress.busy_s,
    )
