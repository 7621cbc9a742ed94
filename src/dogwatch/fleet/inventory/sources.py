"""Where inventories come from: one kind each, and the one list of them. Reading is all the I/O that they do."""

from __future__ import annotations

import abc
import json
import os
import stat
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import urlencode

import msgspec

from dogwatch.core.component import Component, Registry
from dogwatch.core.units import Seconds, Secret
from dogwatch.fleet.inventory.agents import Agent, fill
from dogwatch.fleet.inventory.draft import Draft, Place
from dogwatch.fleet.inventory.folders import read_folders, read_text
from dogwatch.fleet.inventory.ini import read_ini
from dogwatch.fleet.inventory.programs import ANSWER_BYTES, run_program
from dogwatch.fleet.inventory.sshconfig import read_ssh_config
from dogwatch.fleet.inventory.tree import listed_hosts, read_listing, read_tree

_YAML = (".yml", ".yaml", ".json")
# What lies in a folder of inventories and is none (Ansible's own list, and its folders of variables).
_NOT_INVENTORIES = (".orig", ".ini~", ".cfg", ".retry", ".pyc", ".pyo", ".bak", ".md", ".rst", "~")
_SUB_PROGRAMS = 1000
# Of a daemon's list of workers, at most; 500 each.
_PAGES = 200


class Source(Component, frozen=True, kw_only=True):
    """Says which hosts there are."""

    @abc.abstractmethod
    def read(self, base: Path, draft: Draft) -> None:
        """Put what the source says into the draft, and its problems. base: what relative paths are relative to."""


class AnsibleSource(Source, frozen=True, kw_only=True):
    """Reads an Ansible inventory: INI or YAML, a folder of them, `group_vars/` and `host_vars/` beside it.

    path: the file or folder. Files that may be executed are run, as Ansible does.
    """

    kind: ClassVar[str] = "ansible"
    short: ClassVar[str] = "path"
    path: str

    def read(self, base: Path, draft: Draft) -> None:
        path = resolve(self.path, base)
        if path.is_dir():
            found = False
            for entry in sorted(path.iterdir()):
                if entry.is_file() and entry.name[0] != "." and not entry.name.endswith(_NOT_INVENTORIES):
                    found = True
                    _read_file(entry, draft)
            if not found:
                draft.problem(Place(str(path)), "no inventory in this folder")
            read_folders(path, draft)
            return
        _read_file(path, draft)
        read_folders(path.parent, draft)


class ExecutableSource(Source, frozen=True, kw_only=True):
    """Runs a program that speaks Ansible's JSON protocol: `--list`, and `--host NAME` where that has no `_meta`.

    path: of the program. timeout: how long it may take. env: added to the environment.
    """

    kind: ClassVar[str] = "executable"
    short: ClassVar[str] = "path"
    path: str
    timeout: Seconds = 60.0
    env: Mapping[str, str] = {}

    def read(self, base: Path, draft: Draft) -> None:
        path = resolve(self.path, base)
        run_executable(path, draft, timeout_s=self.timeout, env=self.env)


class SshConfigSource(Source, frozen=True, kw_only=True):
    """Takes the hosts that an OpenSSH configuration names, without those with wildcards.

    path: of the configuration.
    """

    kind: ClassVar[str] = "ssh_config"
    short: ClassVar[str] = "path"
    path: str = "~/.ssh/config"

    def read(self, base: Path, draft: Draft) -> None:
        read_ssh_config(resolve(self.path, base), draft)


class CommandSource(Source, frozen=True, kw_only=True):
    """Runs a command that prints an inventory: Ansible's JSON, its YAML or its INI.

    run: the program and its arguments, without a shell. timeout: how long it may take. env: added to the environment.
    """

    kind: ClassVar[str] = "command"
    run: tuple[str, ...]
    timeout: Seconds = 60.0
    env: Mapping[str, str] = {}

    def read(self, base: Path, draft: Draft) -> None:
        text = run_program(self.run, draft, cwd=base, timeout_s=self.timeout, env=self.env)
        if text is not None:
            read_any(self.run[0], text, draft)


class UrlSource(Source, frozen=True, kw_only=True):
    """Fetches an inventory over HTTP: Ansible's JSON, its YAML or its INI.

    url: http or https. token: sent as a bearer token. headers: sent with the request. timeout: how long it may take.
    """

    kind: ClassVar[str] = "url"
    short: ClassVar[str] = "url"
    url: str
    token: Secret = ""
    headers: Mapping[str, str] = {}
    timeout: Seconds = 30.0

    def read(self, base: Path, draft: Draft) -> None:  # noqa: ARG002
        data = fetched(self.url, draft, token=self.token, headers=self.headers, timeout_s=self.timeout)
        if data is not None:
            read_any(self.url, data.decode(errors="replace"), draft)


def fetched(url: str, draft: Draft, *, token: str, headers: Mapping[str, str], timeout_s: float) -> bytes | None:
    """Return what an address answers; None, and a problem in the draft, where it cannot be had."""
    import http.client
    import urllib.error
    import urllib.request

    place = Place(url)
    if not url.startswith(("http://", "https://")):
        draft.problem(place, "is no http or https address")
        return None
    try:
        request = urllib.request.Request(url, headers=dict(headers))  # noqa: S310 looked at above
        if token:
            # Not sent on to where the server redirects.
            request.add_unredirected_header("Authorization", f"Bearer {token}")
        with urllib.request.urlopen(request, timeout=timeout_s) as answer:  # noqa: S310
            data: bytes = answer.read(ANSWER_BYTES + 1)
    except urllib.error.HTTPError as error:
        error.close()
        draft.problem(place, f"answered {error.code} {error.reason}")
        return None
    except (OSError, ValueError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", error)
        draft.problem(place, f"cannot be fetched: {reason}")
        return None
    if len(data) > ANSWER_BYTES:
        draft.problem(place, f"is larger than {ANSWER_BYTES // 2**20} MiB")
        return None
    return data


class _Agents(msgspec.Struct, frozen=True, kw_only=True):
    """A page of a daemon's list of workers."""

    items: list[Agent]
    next_cursor: str = ""


class AgentsSource(Source, frozen=True, kw_only=True):
    """Names the hosts on which workers of Dogwatch run, with their labels: those of this daemon's own database, or of
    another daemon.

    server: the address of another daemon, whose workers count; "" for this one's. token: for it, with the permission
    worker:read. group: that they are put into. lost: also hosts of which nothing is heard any more. timeout: how long
    the other daemon may take.
    """

    kind: ClassVar[str] = "agents"
    server: str = ""
    token: Secret = ""
    group: str = "agents"
    lost: bool = False
    timeout: Seconds = 30.0

    def read(self, base: Path, draft: Draft) -> None:  # noqa: ARG002
        if not self.server:
            draft.problem(
                Place("agents"),
                "the hosts of workers are known to the daemon only",
                "ask it (--server URL), or say which: agents: {server: URL}",
            )
            return
        url = f"{self.server.rstrip('/')}/api/v1/workers"
        found: list[Agent] = []
        cursor = ""
        for _page in range(_PAGES):
            asked = f"{url}?{urlencode({'limit': 500, 'cursor': cursor})}"
            headers = {"Accept": "application/json"}
            data = fetched(asked, draft, token=self.token, headers=headers, timeout_s=self.timeout)
            if data is None:
                return
            try:
                page = msgspec.json.decode(data, type=_Agents)
            except msgspec.DecodeError as error:
                draft.problem(Place(url), f"is no list of workers: {error}", "is this a Dogwatch daemon?")
                return
            found += page.items
            cursor = page.next_cursor
            if not cursor:
                break
        self.take(found, draft)

    def take(self, agents: Sequence[Agent], draft: Draft) -> None:
        """Put workers that are known already into the draft."""
        fill(agents, draft, Place(self.server or "agents"), group=self.group, lost=self.lost)


class NamesSource(Source, frozen=True, kw_only=True):
    """Names hosts without a file: `-i web1,web2` on the command line.

    hosts: names or ranges, with a port where it is not the usual one.
    """

    kind: ClassVar[str] = "names"
    short: ClassVar[str] = "hosts"
    hosts: tuple[str, ...]

    def read(self, base: Path, draft: Draft) -> None:  # noqa: ARG002
        for name in self.hosts:
            if name:
                read_ini("names", json.dumps(name) if " " in name else name, draft)


SOURCES: Registry[Source] = Registry(
    "inventory", AnsibleSource, ExecutableSource, SshConfigSource, CommandSource, UrlSource, AgentsSource, NamesSource
)


def resolve(path: str, base: Path) -> Path:
    whole = Path(path).expanduser()
    return whole if whole.is_absolute() else base / whole


def guess(text: str) -> Source:
    """Return the source that `-i TEXT` means: names with a comma, an address, a program, a file or a folder."""
    if text.startswith(("http://", "https://")):
        return UrlSource(url=text)
    if "," in text and not Path(text).exists():
        return NamesSource(hosts=tuple(_split(text)))
    path = Path(text).expanduser()
    if (path.name == "config" and path.parent.name == ".ssh") or path.name == "ssh_config":
        return SshConfigSource(path=text)
    return AnsibleSource(path=text)


def _split(text: str) -> list[str]:
    """Return what commas part, those in brackets left alone."""
    parts, depth = [""], 0
    for char in text:
        depth += (char == "[") - (char == "]")
        if char == "," and depth <= 0:
            parts.append("")
        else:
            parts[-1] += char
    return [part.strip() for part in parts]


def _read_file(path: Path, draft: Draft) -> None:
    try:
        mode = path.stat().st_mode
    except OSError as error:
        hint = "hosts by their names end with a comma: -i NAME," if isinstance(error, FileNotFoundError) else ""
        draft.problem(Place(str(path)), f"cannot be read: {(error.strerror or str(error)).lower()}", hint)
        return
    if stat.S_ISREG(mode) and path.suffix not in (*_YAML, ".ini") and os.access(path, os.X_OK) and _is_program(path):
        run_executable(path, draft, timeout_s=60.0, env={})
        return
    try:
        text = read_text(path)
    except ValueError as error:
        draft.problem(Place(str(path)), str(error))
        return
    if path.suffix == ".json" and _read_json(str(path), text, draft):
        return
    if path.suffix in _YAML:
        read_tree(str(path), text, draft)
    elif path.suffix == ".ini":
        read_ini(str(path), text, draft)
    else:
        read_any(str(path), text, draft)


def _is_program(path: Path) -> bool:
    """Return whether a file that may be executed is meant to be: on some file systems every file may."""
    with path.open("rb") as file:
        return file.read(4).startswith((b"#!", b"\x7fELF"))


def read_any(name: str, text: str, draft: Draft) -> None:
    """Read JSON, YAML or INI, by what it looks like."""
    if text.lstrip()[:1] == "{":
        if not _read_json(name, text, draft):
            read_tree(name, text, draft)
        return
    lines = [line.strip() for line in text.splitlines() if line.strip() and line.strip()[0] not in "#;"]
    first = lines[0] if lines else ""
    # `web1 ansible_host=…` and `[web]` are INI; `all:` and `---` are YAML. A host with a port is `web1:22`.
    if first.startswith(("---", "%YAML")) or (first.split("#")[0].rstrip().endswith((":", "{}")) and "=" not in first):
        read_tree(name, text, draft)
    else:
        read_ini(name, text, draft)


def _read_json(name: str, text: str, draft: Draft) -> bool:
    """Read the answer to --list; False where it is not that (Ansible's own tree written as JSON)."""
    try:
        root = json.loads(text)
    except (ValueError, RecursionError):
        return False
    if isinstance(root, dict) and "_meta" not in root and any(_is_tree(value) for value in root.values()):
        return False
    read_listing(name, root, draft)
    return True


def _is_tree(value: Any) -> bool:
    return isinstance(value, dict) and any(isinstance(value.get(key), dict) for key in ("hosts", "children"))


def run_executable(path: Path, draft: Draft, *, timeout_s: float, env: Mapping[str, str]) -> None:
    """Ask an executable inventory; one without `_meta` is asked for each of its hosts."""
    path = path.absolute()  # it is run in its own folder
    text = run_program((str(path), "--list"), draft, cwd=path.parent, timeout_s=timeout_s, env=env)
    root = None if text is None else _parse(str(path), text, draft)
    if root is None or read_listing(str(path), root, draft):
        return
    names = [name for name in listed_hosts(root) if name in draft.hosts]
    if len(names) > _SUB_PROGRAMS:
        hint = "give `_meta: {hostvars: …}` with --list"
        draft.problem(Place(str(path)), f"has more than {_SUB_PROGRAMS} hosts to be asked for one by one", hint)
        return
    for name in names:
        answer = run_program((str(path), "--host", name), draft, cwd=path.parent, timeout_s=timeout_s, env=env)
        values = None if answer is None else _parse(str(path), answer or "{}", draft)
        if isinstance(values, dict):
            draft.set_vars(draft.hosts[name].vars, values, Place(f"{path} --host {name}"))
        if answer is None:
            return


def _parse(name: str, text: str, draft: Draft) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        start = " ".join(text.split())[:60] or "nothing"
        draft.problem(Place(name), f"did not print JSON: {error}; it printed: {start}")
        return None
