"""One file per kind of action of the engine itself, and the one list of them. Features add theirs in app.py."""

from __future__ import annotations

from dogwatch.engine.action import Action
from dogwatch.engine.kinds.approve import ApproveAction
from dogwatch.engine.kinds.exec import ExecAction
from dogwatch.engine.kinds.http import HttpAction
from dogwatch.engine.kinds.job import JobAction
from dogwatch.engine.kinds.map import MapAction
from dogwatch.engine.kinds.wait import WaitAction

ENGINE_ACTIONS: tuple[type[Action], ...] = (ExecAction, HttpAction, WaitAction, ApproveAction, JobAction, MapAction)
