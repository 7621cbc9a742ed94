"""The `docker` kind."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from time import perf_counter
from typing import Annotated, Any, ClassVar, Literal

from msgspec import Meta

from dogwatch.core.units import Seconds, format_duration
from dogwatch.probes.engine_api import Container, EngineApi
from dogwatch.probes.probe import Attempt
from dogwatch.probes.progress import ProbeFailed, Progress, SteppedProbe, clock_of
from dogwatch.probes.stream import open_unix_stream

_MAX_CONTAINERS = 200
_MAX_NAMED = 5


class DockerProbe(SteppedProbe, frozen=True, kw_only=True):
    """Asks Docker (or podman) how one container is, or all that have some labels.

    container: name or id of one. labels: all containers that have all of these, `key` or `key=value`, instead of
    container. socket: path of the engine's socket; default /var/run/docker.sock. condition: what each must be: sound
    (running, and not unhealthy), running, healthy (its health check passed) or exited_ok (ended with status 0);
    default sound. min_count: how many the labels must find; default 1. max_restarts: more restarts by the engine
    since the container was made fail; default: any number. min_running: must run this long already, so that a
    container that restarts all the time is seen; default 0.
    """

    kind: ClassVar[str] = "docker"
    short: ClassVar[str] = "container"
    variables: ClassVar[dict[str, str]] = {
        "containers": "list",
        "count": "int",
        "bad": "int",
        "running": "int",
        "state": "string",
        "health": "string",
        "restarts": "int",
        "running_for_s": "double",
        "exit_status": "int",
        "image": "string",
    }
    meanings: ClassVar[Mapping[str, str]] = {
        "containers": "each container found, as a map",
        "count": "containers found",
        "bad": "containers that do not meet the condition",
        "running": "containers that run",
        "state": "state of the worst container",
        "health": "health of the worst container",
        "restarts": "restarts by the engine",
        "running_for_s": "how long the newest has been running",
        "exit_status": "exit status of the worst container",
        "image": "image of the first container",
    }
    metrics: ClassVar[dict[str, tuple[str, str]]] = {
        "count": ("probe_docker_containers", "Containers found"),
        "bad": ("probe_docker_containers_bad", "Containers found that do not meet the condition"),
        "running": ("probe_docker_containers_running", "Containers found that run"),
        "restarts": ("probe_docker_restarts", "Restarts by the engine since the containers were made"),
        "running_for_s": ("probe_docker_running_seconds", "How long the container that started last has been running"),
    }

    container: str = ""
    labels: Annotated[tuple[str, ...], Meta(max_length=20)] = ()
    socket: str = "/var/run/docker.sock"
    condition: Literal["sound", "running", "healthy", "exited_ok"] = "sound"
    min_count: Annotated[int, Meta(ge=0)] = 1
    max_restarts: Annotated[int, Meta(ge=0)] | None = None
    min_running: Seconds = 0.0

    def address(self) -> str:
        return self.container or ",".join(self.labels)

    def faults(self) -> list[tuple[tuple[str | int, ...], str, str]]:
        found: list[tuple[tuple[str | int, ...], str, str]] = []
        if bool(self.container) == bool(self.labels):
            found.append((("container",), "exactly one of container and labels must be given", ""))
        if not self._path().startswith("/") or len(self._path().encode()) > 107:
            found.append((("socket",), "is not the path of a unix socket", "/var/run/docker.sock"))
        return found

    def _path(self) -> str:
        return self.socket.removeprefix("unix://")

    async def ask(self, attempt: Attempt, progress: Progress) -> None:
        with await open_unix_stream(self._path(), progress) as stream:
            progress.doing = "asking the container engine"
            asked = perf_counter()
            api = EngineApi(stream)
            await api.negotiate()
            found = [await api.container(self.container)] if self.container else await self._by_label(api)
            progress.first_byte_s = perf_counter() - asked
        now_s = clock_of(attempt).now_s()
        described = [_described(container, now_s) for container in found]
        complaints = [complaint for item in described if (complaint := self._complaint(item))]
        self._fill(progress, described, len(complaints))
        _keep_health_output(found, progress)
        if complaints:
            more = f" and {len(complaints) - _MAX_NAMED} more" if len(complaints) > _MAX_NAMED else ""
            raise ProbeFailed("unhealthy", f"{'; '.join(complaints[:_MAX_NAMED])}{more}")
        if self.labels and len(found) < self.min_count:
            wanted = f"{len(found)} containers have the label{'s' if len(self.labels) > 1 else ''} {self.address()}"
            raise ProbeFailed("missing", f"{wanted}, wanted at least {self.min_count}")

    async def _by_label(self, api: EngineApi) -> list[Container]:
        found = []
        for listed in (await api.labelled(self.labels))[:_MAX_CONTAINERS]:
            try:
                found.append(await api.container(listed.id))
            except ProbeFailed as failed:
                if failed.reason != "missing":  # it was removed since it was listed
                    raise
        return found

    def _fill(self, progress: Progress, described: list[dict[str, Any]], bad: int) -> None:
        running = [item["running_for_s"] for item in described if item["state"] == "running"]
        progress.values.update(
            {
                "containers": described,
                "count": len(described),
                "bad": bad,
                "running": len(running),
                "restarts": sum(item["restarts"] for item in described),
            }
        )
        if running:
            progress.values["running_for_s"] = min(running)
        if self.container:
            one = described[0]
            progress.values.update({name: one[name] for name in ("state", "health", "exit_status", "image")})

    def _complaint(self, item: dict[str, Any]) -> str:
        """Return what is wrong with a container, "" if nothing."""
        name, state, health = item["name"], item["state"], item["health"]
        if self.condition == "exited_ok":
            if state == "exited" and item["exit_status"] == 0:
                return ""
            return f"{name} {_state_text(item)}"
        if state != "running":
            return f"{name} {_state_text(item)}"
        if self.condition == "healthy" and health != "healthy":
            return f"{name} has no health check" if health == "none" else f"{name} is {health}"
        if self.condition == "sound" and health == "unhealthy":
            return f"{name} is unhealthy"
        if self.max_restarts is not None and item["restarts"] > self.max_restarts:
            return f"{name} was restarted {item['restarts']} times"
        if item["running_for_s"] < self.min_running:
            return f"{name} has been running only {format_duration(item['running_for_s'])}"
        return ""


def _state_text(item: dict[str, Any]) -> str:
    if item["state"] in ("exited", "dead"):
        status = item["exit_status"]
        return f"exited with status {status}, out of memory" if item["oom_killed"] else f"exited with status {status}"
    return f"is {item['state'] or 'in no known state'}"


def _described(container: Container, now_s: float) -> dict[str, Any]:
    state = container.state
    return {
        "name": container.name.removeprefix("/") or container.id[:12],
        "id": container.id[:12],
        "image": container.config.image,
        "state": state.status,
        # podman says "" where there is no health check, Docker leaves it out
        "health": (state.health.status if state.health else "") or "none",
        "restarts": container.restart_count,
        "running_for_s": _age_s(state.started_at, now_s) if state.status == "running" else 0.0,
        "exit_status": state.exit_code,
        "oom_killed": state.oom_killed,
    }


def _age_s(text: str, now_s: float) -> float:
    try:
        return max(now_s - datetime.fromisoformat(text).timestamp(), 0.0)
    except (ValueError, OverflowError):
        return 0.0


def _keep_health_output(found: list[Container], progress: Progress) -> None:
    """Keep what the newest health check of unhealthy containers said: it tells why."""
    for container in found:
        health = container.state.health
        if health and health.status == "unhealthy" and health.log:
            newest = health.log[-1]
            line = f"{container.name.removeprefix('/')}: exit status {newest.exit_code}: {newest.output[:2000]}\n"
            progress.hear(line.encode())
