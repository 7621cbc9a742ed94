"""What tests of jobs share: a registry with an action that runs nothing, and loading of a text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from dogwatch.access.actor import Actor
from dogwatch.config.build import Catalog
from dogwatch.config.files import Reading, SecretFiles, SourceFile
from dogwatch.config.load import Loader
from dogwatch.core.component import Registry
from dogwatch.engine.action import Action, Change, Outcome, Scene, Wait
from dogwatch.engine.jobs import jobs_section
from dogwatch.engine.kinds import ENGINE_ACTIONS
from dogwatch.engine.scope import Scope, StepView
from dogwatch.engine.spec import JobSpec
from dogwatch.engine.values import Json, Run, RunState, Trigger
from dogwatch.errors import ConfigError
from dogwatch.notify.action import NotifyAction


class ShellAction(Action, frozen=True, kw_only=True):
    """Stands for programs: it keeps what it was given. run: a script. args: words. env: variables."""

    kind: ClassVar[str] = "shell"
    short: ClassVar[str] = "run"
    shell: ClassVar[tuple[str, ...]] = ("run",)
    outputs: ClassVar[Mapping[str, str]] = {"exit": "int", "stdout": "string"}

    run: str = ""
    args: Sequence[str] = ()
    env: Mapping[str, str] = {}
    value: Json = None

    def plan(self) -> Change:
        return Change(summary=f"run {self.run or ' '.join(self.args)}", undo="")

    async def apply(self, scene: Scene) -> Outcome | Wait:
        return Outcome(outputs={"exit": 0, "stdout": self.run})


REGISTRY: Registry[Action] = Registry("action", ShellAction, NotifyAction, *ENGINE_ACTIONS)
JOBS = jobs_section(REGISTRY)
CATALOG = Catalog([JOBS])


def load_jobs(text: str, *, environ: Mapping[str, str] | None = None, name: str = "jobs.yaml") -> list[JobSpec]:
    """Return the jobs of a configuration. Raises: ConfigError."""
    loader = Loader([], CATALOG, environ=environ or {})
    reading = Reading(files=(SourceFile(name, text.encode()),))
    return loader.validate(loader.parse_reading(reading, SecretFiles())).get(JOBS)


def problems(text: str, *, environ: Mapping[str, str] | None = None) -> list[str]:
    """Return every mistake of a configuration, a line each."""
    try:
        load_jobs(text, environ=environ)
    except ConfigError as error:
        return [str(problem) for problem in error.problems]
    return []


def new_run(job: str = "deploy", **changes: Any) -> Run:
    values: dict[str, Any] = {
        "run_id": "r1",
        "job": job,
        "state": RunState.RUNNING,
        "actor": Actor(kind="user", name="ann"),
        "trigger": Trigger(),
        "created_s": 1_800_000_000.0,
    }
    return Run(**{**values, **changes})


def new_scope(job: JobSpec | None = None, **changes: Any) -> Scope:
    values: dict[str, Any] = {
        "job": job or JobSpec(name="deploy", steps=[]),
        "run": new_run(),
        "parameters": {},
        "steps": {},
    }
    return Scope(**{**values, **changes})


def seen(outputs: Mapping[str, Json] | None = None, state: str = "succeeded") -> StepView:
    return StepView(state=state, outputs=outputs or {}, attempt=1)
