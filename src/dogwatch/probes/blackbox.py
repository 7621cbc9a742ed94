"""`/probe` as blackbox_exporter answers it, so that an existing Prometheus needs only another address.

Where we differ is written in docs/blackbox.md.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any

import msgspec
import yaml

from dogwatch.config.part import Configuration
from dogwatch.core.component import Registry, nearest
from dogwatch.core.metrics import Family, render
from dogwatch.errors import ConfigError, NotFound, UsageError
from dogwatch.probes.blackbox_files import file_modules
from dogwatch.probes.blackbox_metrics import Outcome, families
from dogwatch.probes.blackbox_modules import (
    MODULES,
    Module,
    default_modules,
    inline_of,
    read_module,
)
from dogwatch.probes.blackbox_oauth import TokenRefused, Tokens
from dogwatch.probes.blackbox_secrets import MemoryFiles, names_files
from dogwatch.probes.blackbox_translate import Translated, has_cel, host_of, over_limit, translate
from dogwatch.probes.probe import Attempt, Probe, ProbeEnv, ProbeResult, attempt_once
from dogwatch.probes.target import close_memory

__all__ = ["MODULES", "Answer", "Blackbox"]

log = logging.getLogger(__name__)
DEFAULT_MODULE = "http_2xx"
# blackbox_exporter's own defaults: --timeout-offset, and what it takes without a header.
TIMEOUT_OFFSET_S = 0.5
DEFAULT_TIMEOUT_S = 120.0
RUNNING = 500
_CACHED = 5000
_TEXT = "text/plain; version=0.0.4; charset=utf-8"
_PLAIN = "text/plain; charset=utf-8"


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """What one /probe request found. log: lines for `debug=true`."""

    success: bool
    result: ProbeResult
    families: list[Family]
    module: Module
    log: tuple[str, ...] = ()

    def debug(self) -> str:
        """Return the text of `debug=true`: log, metrics, module; secrets are masked."""
        return (
            "Logs for the probe:\n"
            + "\n".join(self.log)
            + "\n\n\n\nMetrics that would have been returned:\n"
            + render(self.families)
            + "\n\n\nModule configuration:\n"
            + yaml.safe_dump(_shown(self.module), sort_keys=False)
        )


class Blackbox:
    """Holds the modules and answers /probe; a Part. Until it is configured it has blackbox_exporter's examples."""

    name = "blackbox"

    def __init__(self, *, env: ProbeEnv, registry: Registry[Probe]) -> None:
        self._env = env
        self._registry = registry
        self.modules: dict[str, Module] = default_modules()
        self._translated: OrderedDict[tuple[str, str, str], Translated] = OrderedDict()
        self._memory = MemoryFiles()
        self._tokens = Tokens(env, registry, self._memory)
        self._running = asyncio.Semaphore(RUNNING)

    def prepare(self, configuration: Configuration) -> _Change:
        """Take over the section, whose check has found every mistake there is."""
        value: dict[str, Any] = configuration.get(MODULES)
        return _Change(self, {**default_modules(), **load_modules(value)})

    def take(self, modules: dict[str, Module]) -> None:
        self.modules = modules
        self._translated.clear()
        self._tokens.clear()

    async def stop(self) -> None:
        """Nothing runs that its request does not own."""
        self._translated.clear()

    async def answer(self, query: Mapping[str, str], headers: Mapping[str, str]) -> tuple[int, str, str]:
        """Return HTTP status, content type and text for a request. headers: names in lower case."""
        timeout = headers.get("x-prometheus-scrape-timeout-seconds", "")
        try:
            answer = await self.probe(
                query.get("target", ""),
                query.get("module", "") or DEFAULT_MODULE,
                hostname=query.get("hostname", ""),
                scrape_timeout=timeout,
            )
        except (NotFound, UsageError) as error:
            return 400, _PLAIN, f"{error}\n"
        if query.get("debug", "") == "true":
            return 200, _PLAIN, answer.debug()
        return 200, _TEXT, render(answer.families)

    async def probe(self, target: str, module: str, *, hostname: str = "", scrape_timeout: str = "") -> Answer:
        """Run one attempt. scrape_timeout: the header of Prometheus, seconds, or "".

        Raises: NotFound for an unknown module; UsageError for a missing target or a timeout that is no number.
        """
        if not target:
            raise UsageError("Target parameter is missing")
        chosen = self.modules.get(module)
        if chosen is None:
            raise NotFound(f'Unknown module "{module}"', hint=nearest(module, list(self.modules)))
        _check_hostname(chosen, hostname)
        timeout_s = timeout_of(chosen, scrape_timeout)
        lines = _Log(chosen.name, target)
        lines.add(f'msg="Beginning probe" probe={chosen.prober} timeout_seconds={timeout_s:g}')
        async with self._running:
            outcome = await self._ask(chosen, target, hostname, timeout_s, lines)
        word = "succeeded" if outcome.success else "failed"
        lines.add(f'msg="Probe {word}" duration_seconds={outcome.result.duration_s:.9g}')
        return Answer(
            success=outcome.success,
            result=outcome.result,
            families=families(outcome, timeout_s),
            module=chosen,
            log=tuple(lines.lines),
        )

    async def _ask(self, module: Module, target: str, hostname: str, timeout_s: float, lines: _Log) -> Outcome:
        started_s = time.monotonic()
        try:
            # Files are read outside the event loop: they may be large, or on a file system that hangs.
            work = asyncio.to_thread if names_files(module) else _at_once
            translated = await work(self._translate, module, target, hostname)
            probe = await self._authorized(module, translated.probe, timeout_s)
        except (ConfigError, TokenRefused) as error:
            # As in blackbox_exporter, a target that makes no sense is a failed probe and not an error of the request.
            lines.add(f"msg={_quoted(str(error))}", level="error")
            failed = ProbeResult(success=False, duration_s=0.0, reason="protocol", message=str(error))
            return Outcome(
                prober=module.prober, probe=_Nothing(), result=failed, success=False, has_cel=has_cel(module)
            )
        timeout_s = max(0.01, timeout_s - (time.monotonic() - started_s))
        memory: dict[str, Any] = {}
        attempt = Attempt(target=target, timeout_s=timeout_s, env=self._env, wants=translated.wants, memory=memory)
        lines.add(f'msg="Asking" kind={probe.kind} address={_quoted(probe.address())}')
        try:
            result = await attempt_once(probe, attempt)
        finally:
            close_memory(memory)
        if module.http.oauth2 is not None and result.values.get("status") == 401:
            self._tokens.forget(module.http.oauth2)
        for name, value in result.values.items():
            if isinstance(value, bool | int | float):
                lines.add(f'msg="Saw" {name}={value:g}')
        if result.message:
            lines.add(f"msg={_quoted(result.message)} reason={result.reason}", level="error")
        outcome = _judged(module, translated, over_limit(module, result), lines)
        return msgspec.structs.replace(outcome, host=host_of(target))

    async def _authorized(self, module: Module, probe: Probe, timeout_s: float) -> Probe:
        """Return the probe with the token that its module asks for."""
        if module.prober != "http" or module.http.oauth2 is None:
            return probe
        header = await self._tokens.header(module.http.oauth2, timeout_s)
        return msgspec.structs.replace(probe, headers={"Authorization": header, **getattr(probe, "headers", {})})

    def _translate(self, module: Module, target: str, hostname: str) -> Translated:
        if names_files(module):  # whose content may change before the next probe
            return translate(self._registry, module, target, hostname, self._memory)
        key = (module.name, target, hostname)
        found = self._translated.get(key)
        if found is None:
            found = translate(self._registry, module, target, hostname, self._memory)
            self._translated[key] = found
            if len(self._translated) > _CACHED:
                self._translated.popitem(last=False)
        return found


class _Nothing(Probe, frozen=True, kw_only=True):
    """Stands for a probe that could not even be built."""

    kind = "none"

    def launch(self, attempt: Attempt, done: Any) -> Any:
        raise NotImplementedError


class _Log:
    """The lines of one request, in logfmt as blackbox_exporter writes them."""

    def __init__(self, module: str, target: str) -> None:
        self._who = f"module={module} target={_quoted(target) if ' ' in target else target}"
        self.lines: list[str] = []

    def add(self, text: str, *, level: str = "info") -> None:
        now_s = time.time()
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now_s))
        self.lines.append(f"ts={stamp}.{int(now_s % 1 * 1000):03d}Z {self._who} level={level} {text}")


class _Change:
    """New modules, not yet in force."""

    def __init__(self, blackbox: Blackbox, modules: dict[str, Module]) -> None:
        self._blackbox = blackbox
        self._modules = modules

    async def start(self) -> None:
        """Nothing to start."""

    def swap(self) -> None:
        self._blackbox.take(self._modules)

    async def finish(self) -> None:
        """Nothing to stop: requests under way keep the module they began with."""

    async def discard(self) -> None:
        """Nothing to undo."""


def load_modules(value: Mapping[str, Any]) -> dict[str, Module]:
    """Return the modules of a `modules` section that was checked: those of its files, and over them the inline ones."""
    modules = file_modules(value.get("file"))
    for name, one in inline_of(value).items():
        module, _faults = read_module(name, one)
        if module is not None:
            modules[name] = module
    return modules


def timeout_of(module: Module, scrape_timeout: str) -> float:
    """Return an attempt's timeout: the scrape's less an offset, or the module's own if that is shorter.

    Raises: UsageError for a header that is no number.
    """
    if scrape_timeout:
        try:
            timeout_s = float(scrape_timeout)
        except ValueError:
            raise UsageError(f"Failed to parse timeout from Prometheus header: '{scrape_timeout}'") from None
    else:
        timeout_s = DEFAULT_TIMEOUT_S
    if not 0 < timeout_s < 86_400:
        timeout_s = DEFAULT_TIMEOUT_S
    timeout_s = max(0.01, timeout_s - TIMEOUT_OFFSET_S if timeout_s > TIMEOUT_OFFSET_S else timeout_s)
    return min(timeout_s, module.timeout_s) if module.timeout_s else timeout_s


def _judged(module: Module, translated: Translated, result: ProbeResult, lines: _Log) -> Outcome:
    failed = ""
    if result.success:
        for check in translated.checks:
            complaint = check.complaint(result.values)
            if complaint:
                # As there, only the first thing that is wrong is told.
                failed = check.kind
                lines.add(f"msg={_quoted(complaint)}", level="error")
                break
    config = getattr(getattr(module, module.prober), "tls_config", None)
    return Outcome(
        prober=module.prober,
        probe=translated.probe,
        result=result,
        success=result.success and not failed,
        by_regex=failed == "regex",
        by_cel=failed == "cel",
        has_cel=has_cel(module),
        verified=config is None or not config.insecure_skip_verify,
        follows=_follows(module),
        resolves=not (module.prober == "http" and module.http.skip_resolve_phase_with_proxy and _has_proxy(module)),
    )


async def _at_once(work: Callable[..., Translated], *arguments: Any) -> Translated:
    return work(*arguments)


def _check_hostname(module: Module, hostname: str) -> None:
    """Refuse a `hostname=` that contradicts the module's own Host header."""
    for name, value in module.http.headers.items() if module.prober == "http" and hostname else ():
        if name.lower() == "host" and value != hostname:
            both = f"module configuration ({value}) and with URL-parameter 'hostname' ({hostname})"
            raise UsageError(f"host header defined both in {both}")


def _has_proxy(module: Module) -> bool:
    return module.http.proxy_url is not None or module.http.proxy_from_environment


def _follows(module: Module) -> bool:
    old = module.http.no_follow_redirects
    return module.http.follow_redirects if old is None else not old


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'


_HIDDEN_NAMES = """
    password bearer_token credentials key proxy_url proxy_connect_header send secrets client_secret
    client_certificate_key metadata
"""
_SECRET_KEYS = frozenset(_HIDDEN_NAMES.split())


def _shown(module: Module) -> dict[str, Any]:
    """Return a module as its configuration, with only what was set, and no secrets."""
    options = msgspec.to_builtins(getattr(module, module.prober))
    default = msgspec.to_builtins(type(getattr(module, module.prober))())
    written = {name: _masked(name, value) for name, value in options.items() if value != default[name]}
    shown: dict[str, Any] = {"prober": module.prober}
    if module.timeout_s:
        shown["timeout"] = f"{module.timeout_s:g}s"
    return {**shown, module.prober: written}


def _masked(name: str, value: Any) -> Any:
    if name in _SECRET_KEYS and value:
        return "<secret>"
    if isinstance(value, dict):
        hide = name == "headers"
        return {key: "<secret>" if hide and _is_secret(key) else _masked(key, inner) for key, inner in value.items()}
    return [_masked("", item) for item in value] if isinstance(value, list | tuple) else value


def _is_secret(header: str) -> bool:
    return header.lower() in ("authorization", "cookie", "proxy-authorization", "x-api-key")
