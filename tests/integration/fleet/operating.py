"""A machine to try operations on: a folder of its own, planned and changed through the real scripts."""

from __future__ import annotations

import secrets
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import yaml

from dogwatch.errors import ConfigError
from dogwatch.fleet.connection import Connection
from dogwatch.fleet.connections.local import LocalConnection
from dogwatch.fleet.login import Login
from dogwatch.fleet.operations import OPERATIONS
from dogwatch.fleet.operations.reading import seals_of
from dogwatch.fleet.plans.apply import Applier, Applying, Done
from dogwatch.fleet.plans.asking import ask
from dogwatch.fleet.plans.decide import decide_host, needs_of
from dogwatch.fleet.plans.journal import Journal
from dogwatch.fleet.plans.plan import HostPlan
from dogwatch.fleet.playbook.expand import Expander, Scope
from dogwatch.fleet.playbook.load import read_playbook
from dogwatch.fleet.playbook.templates import Engine, Values

Tree = dict[str, Any]


def make_tree(root: Path, wanted: Mapping[str, Any]) -> None:
    """Make what a case describes: text of files, null for folders, {link:} and {content:, mode:}."""
    for name, what in wanted.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if what is None:
            path.mkdir(exist_ok=True)
        elif isinstance(what, str):
            path.write_bytes(what.encode())
        elif "link" in what:
            path.symlink_to(what["link"])
        elif "hex" in what:
            path.write_bytes(bytes.fromhex(what["hex"]))
        elif "folder" in what:
            path.mkdir(exist_ok=True)
            path.chmod(int(what["folder"], 8))
        else:
            path.write_bytes(what["content"].encode())
            path.chmod(int(what["mode"], 8))


def tree(root: Path) -> Tree:
    """Return everything below a folder: types, permissions, owners, and content byte for byte."""
    found: Tree = {}
    for path in sorted(root.rglob("*")):
        name, about = str(path.relative_to(root)), path.lstat()
        if path.is_symlink():
            found[name] = ("link", str(path.readlink()))
        elif path.is_dir():
            found[name] = ("folder", f"{stat.S_IMODE(about.st_mode):o}", about.st_uid, about.st_gid)
        else:
            found[name] = ("file", f"{stat.S_IMODE(about.st_mode):o}", about.st_uid, about.st_gid, path.read_bytes())
    return found


def shown(root: Path) -> Tree:
    """Return the tree as cases write it, without permissions."""
    found: Tree = {}
    for name, (kind, *more) in tree(root).items():
        if kind == "folder":
            found[name] = None
        elif kind == "link":
            found[name] = {"link": more[0]}
        else:
            try:
                found[name] = more[-1].decode()
            except UnicodeDecodeError:
                found[name] = {"hex": more[-1].hex()}
    return found


class Box:
    """root: the folder that operations of cases work in, `{{ root }}`. folder: what lies beside the playbook."""

    def __init__(self, root: Path, folder: Path, state: Path, connection: Connection | None = None) -> None:
        self.root, self.folder, self.state = root, folder, state
        self.engine = Engine()
        self.connection = connection or LocalConnection()
        self.login = Login(host="box", connection="local")

    def playbook(self, operations: list[Any], handlers: list[Any] | None = None) -> str:
        return yaml.safe_dump({"hosts": "all", "operations": operations, "handlers": handlers or []}, sort_keys=False)

    async def plan(
        self, operations: list[Any], *, handlers: list[Any] | None = None, variables: Mapping[str, Any] | None = None
    ) -> HostPlan:
        text = self.playbook(operations, handlers)
        try:
            playbook = read_playbook("case.yaml", text, self.folder, OPERATIONS, self.engine)
        except ConfigError as error:
            return HostPlan(host="box", problems=tuple(map(str, error.problems)))
        given = {"root": str(self.root), "host": "box", "groups": [], **(variables or {})}
        scope = Scope(values=Values(given, self.engine), origin={}, secrets={})
        tasks, problems = Expander(playbook, playbook.plays[0], OPERATIONS, self.engine).tasks(scope)
        needs, more = needs_of(tasks)
        if problems or more:
            return HostPlan(host="box", problems=(*problems, *more))
        read = await ask(self.connection, self.login, needs, timeout_s=30.0)
        plan = decide_host("box", tasks, read)
        # As from a file.
        return msgspec.json.decode(msgspec.json.encode(plan), type=HostPlan)

    def applier(self, plan: HostPlan, apply_id: str, *, resume: bool = False) -> Applier:
        applying = Applying(
            apply_id=apply_id,
            salt="",
            holder="a test",
            plans={"box": plan},
            secrets={},
            operations=OPERATIONS,
            folders={"box": str(self.state)},
            resume=resume,
            timeout_s=60.0,
        )
        return Applier(applying, Journal(self.folder.parent / "journal"))

    async def apply(self, plan: HostPlan, apply_id: str = "", *, resume: bool = False) -> Done:
        applier = self.applier(plan, apply_id or secrets.token_hex(8), resume=resume)
        with applier._journal.held():
            await applier.work("box", self.login, self.connection)
        return applier.done["box"]

    async def back(self, plan: HostPlan, apply_id: str) -> Done:
        applier = self.applier(plan, apply_id)
        with applier._journal.held():
            await applier.back("box", self.login, self.connection)
        return applier.done["box"]

    async def seals(self, plan: HostPlan) -> dict[str, str]:
        """Return what is so now of everything that the plan rests on."""
        return seals_of((await ask(self.connection, self.login, plan.needs, timeout_s=30.0)).facts)


def predicted(plan: HostPlan) -> dict[str, str]:
    """Return what the plan says of every fact when all is done."""
    # What is decided on the way, or comes with a package or command, is not foretold.
    loose = any(item.later or getattr(step, "loose", False) for item in plan.items for step in (item.steps or (item,)))
    found = {} if loose else dict(plan.facts)
    for item in plan.items:
        for step in item.steps:
            found.update(step.effects)
    return {key: seal for key, seal in found.items() if seal != "?"}
