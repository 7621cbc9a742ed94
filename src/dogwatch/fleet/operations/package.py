"""The operation `package`: packages of apt, dnf and apk."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, Literal

from dogwatch.fleet.operations.operation import Context, Operation
from dogwatch.fleet.operations.state import CannotRead, Fact, Need, Refused, State
from dogwatch.fleet.operations.steps import AnyStep, Run

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9+._:~-]*(=[A-Za-z0-9][A-Za-z0-9+._:~*-]*)?")
_PRELUDE = r"""pm() {
  for m in apt-get dnf apk; do command -v $m >/dev/null 2>&1 && { m=${m%-get}; return; }; done
  m=none
}
pk() {
  pm; l=$1; shift; echo "$m"
  case $m in
    apt) dpkg-query -W -f '${Package} ${db:Status-Status} ${Version}\n' "$@" 2>/dev/null | sed -n 's/ installed / /p';;
    dnf) rpm -q --qf '%{NAME} %{VERSION}-%{RELEASE}\n' "$@" 2>/dev/null | grep -v ' is not installed$';;
    apk) for x in "$@"; do v=$(apk info -e -v "$x" 2>/dev/null | head -n 1); [ -z "$v" ] || echo "$x ${v#"$x"-}"; done;;
  esac
  [ "$l" = 1 ] || return 0
  case $m in
    apt) for x in "$@"; do apt-cache policy "$x" 2>/dev/null | sed -n "s/^  Candidate: /newest $x /p"; done;;
    dnf) dnf -q -C list --updates "$@" 2>/dev/null | awk 'NF==3 {sub(/[.][^.]*$/, "", $1); print "newest", $1, $2}';;
    apk) for x in "$@"; do apk version -l '<' "$x" 2>/dev/null | sed -n "s/.* < \(.*\)/newest $x \1/p"; done;;
  esac
}
"""
_INSTALL = {
    "apt": "apt-get -q -y -o Dpkg::Options::=--force-confdef -o Dpkg::Options::=--force-confold "
    "-o DPkg::Lock::Timeout=120 install{recommends} --",
    "dnf": "dnf -q -y{recommends} install --",
    "apk": "apk add -q{upgrade} --",
}
_REMOVE = {
    "apt": "apt-get -q -y -o DPkg::Lock::Timeout=120 {verb} --",
    "dnf": "dnf -q -y remove --",
    "apk": "apk del -q --",
}
_REFRESH = {
    "apt": "apt-get -q -o DPkg::Lock::Timeout=120 update",
    "dnf": "dnf -q makecache",
    "apk": "apk update -q",
}


class PackagesFact(Fact, frozen=True, kw_only=True):
    """Of the packages asked for: those that are installed with their versions, and newer versions that are known."""

    manager: str
    installed: Mapping[str, str]
    newest: Mapping[str, str] = {}


class PackagesNeed(Need[PackagesFact], frozen=True, kw_only=True, tag="packages"):
    """Which of these packages are installed. newest: also what could be."""

    prelude: ClassVar[str] = _PRELUDE
    names: tuple[str, ...]
    newest: bool = False

    @property
    def key(self) -> str:
        return f"packages{' newest' if self.newest else ''} {' '.join(self.names)}"

    def script(self) -> str:
        return f"pk {int(self.newest)} {shlex.join(self.names)}"

    def parse(self, raw: bytes) -> PackagesFact:
        manager, *lines = raw.decode(errors="backslashreplace").splitlines() or ["none"]
        if manager == "none":
            raise CannotRead("there is no package manager that is known here", hint="known: apt, dnf, apk")
        installed: dict[str, str] = {}
        newest: dict[str, str] = {}
        for line in lines:
            words = line.split()
            if len(words) == 3 and words[0] == "newest" and words[2] != "(none)":
                newest[words[1]] = words[2]
            elif len(words) == 2:
                installed[words[0]] = words[1]
        return PackagesFact(manager=manager, installed=installed, newest=newest)


class PackageOperation(Operation, frozen=True, kw_only=True):
    """Packages are installed, or are not.

    name: of the package, or a list; `name=version` for one version. state: present, absent, or latest. refresh: read
    the lists of packages anew before anything is installed. recommends: with what they recommend. purge: with its
    configuration, where apt takes it away.
    """

    kind: ClassVar[str] = "package"
    short: ClassVar[str] = "name"

    name: str | list[str]
    state: Literal["present", "absent", "latest"] = "present"
    refresh: bool = False
    recommends: bool = True
    purge: bool = False

    def faults(self) -> Iterable[tuple[str, str, str]]:
        if not self._names():
            yield "name", "names no package", ""
        for name in self._names():
            if not _NAME.fullmatch(name):
                yield "name", f"'{name}' is not the name of a package", ""

    def needs(self, context: Context) -> Sequence[Need[Any]]:  # noqa: ARG002
        return [self._need()]

    def decide(self, context: Context, state: State) -> Iterator[AnyStep]:
        need = self._need()
        fact = state.get(need)
        if self.state == "absent":
            yield from self._remove(state, need, fact)
            return
        missing = [name for name in self._names() if not self._well(name, fact)]
        if not missing:
            return
        words = [self._asked(name, fact) for name in missing]
        upgrade = " -u" if self.state == "latest" else ""
        install = _INSTALL[fact.manager].format(recommends=self._recommends(fact.manager), upgrade=upgrade)
        script = f"{install} {shlex.join(words)}"
        if self.refresh:
            script = f"{_REFRESH[fact.manager]} && {script}"
        new = [name.partition("=")[0] for name in missing if name.partition("=")[0] not in fact.installed]
        state.put(
            need,
            PackagesFact(
                manager=fact.manager,
                installed={**fact.installed, **{name.partition("=")[0]: "?" for name in missing}},
                newest=fact.newest,
            ),
            sure=False,
        )
        state.loose = state.loose or context.name
        undo = f"{_REMOVE[fact.manager].format(verb='remove')} {shlex.join(new)}" if new else ""
        yield Run(
            title=f"install {', '.join(missing)}", diff=self._told(missing, fact), script=script, undo=undo, loose=True
        )

    def _remove(self, state: State, need: PackagesNeed, fact: PackagesFact) -> Iterator[AnyStep]:
        there = [name for name in self._names() if name in fact.installed]
        if not there:
            return
        left = {name: version for name, version in fact.installed.items() if name not in there}
        state.put(need, PackagesFact(manager=fact.manager, installed=left, newest=fact.newest))
        verb = "purge" if self.purge else "remove"
        script = f"{_REMOVE[fact.manager].format(verb=verb)} {shlex.join(there)}"
        back = [_word(fact.manager, f"{name}={fact.installed[name]}") for name in there]
        undo = f"{_INSTALL[fact.manager].format(recommends='', upgrade='')} {shlex.join(back)}"
        yield Run(title=f"remove {', '.join(there)}", script=script, undo=undo, loose=True)

    def _well(self, name: str, fact: PackagesFact) -> bool:
        name, _, version = name.partition("=")
        there = fact.installed.get(name)
        if there is None:
            return False
        if version and there != "?":
            wanted = re.escape(version).replace(r"\*", ".*")
            return re.fullmatch(wanted, there) is not None or re.fullmatch(f"{wanted}-.*", there) is not None
        newest = fact.newest.get(name, there)
        return self.state != "latest" or there in (newest, "?")

    def _asked(self, name: str, fact: PackagesFact) -> str:
        """Return what the manager is told to install. dnf leaves an older one that is there, unless told which."""
        if self.state == "latest" and fact.manager == "dnf" and "=" not in name and name in fact.installed:
            return f"{name}-{fact.newest[name]}" if name in fact.newest else name
        return _word(fact.manager, name)

    def _told(self, missing: Sequence[str], fact: PackagesFact) -> str:
        lines = []
        for name in missing:
            bare = name.partition("=")[0]
            if bare in fact.installed:
                newer = name.partition("=")[2] or fact.newest.get(bare, "")
                lines.append(f"{bare} {fact.installed[bare]} → {newer}\n")
        return "".join(lines)

    def _recommends(self, manager: str) -> str:
        if self.recommends:
            return ""
        return {"apt": " --no-install-recommends", "dnf": " --setopt=install_weak_deps=False"}.get(manager, "")

    def _names(self) -> list[str]:
        return [self.name] if isinstance(self.name, str) else self.name

    def _need(self) -> PackagesNeed:
        names = tuple(name.partition("=")[0] for name in self._names())
        return PackagesNeed(names=names, newest=self.state == "latest")


def _word(manager: str, name: str) -> str:
    bare, _, version = name.partition("=")
    if not version:
        return bare
    if manager not in ("apt", "dnf", "apk"):
        raise Refused(f"{manager} takes no versions")
    return f"{bare}-{version}" if manager == "dnf" else f"{bare}={version}"
