"""The operations `user` and `group`."""

from __future__ import annotations

import hashlib
import re
import shlex
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, ClassVar, Literal

import msgspec

from dogwatch.fleet.operations.operation import Context, Operation
from dogwatch.fleet.operations.state import Fact, Need, Refused, State
from dogwatch.fleet.operations.steps import AnyStep, Run

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*\$?")


class UserFact(Fact, frozen=True, kw_only=True):
    """A user. group: the primary one. groups: the others. password: digest of the hash, "" where it cannot be read."""

    there: bool = False
    uid: int | None = None
    group: str = ""
    comment: str = ""
    home: str = ""
    shell: str = ""
    groups: tuple[str, ...] = ()
    password: str = ""
    locked: bool = False


class UserNeed(Need[UserFact], frozen=True, kw_only=True, tag="user"):
    """A user as the host knows it."""

    name: str

    @property
    def key(self) -> str:
        return f"user {self.name}"

    def script(self) -> str:
        name, line = shlex.quote(self.name), shlex.quote(f"^{re.escape(self.name)}:")
        return (
            f"if x=$(getent passwd {name} || grep {line} /etc/passwd); then "
            f'printf "%s\\n" "$x"; id -gn {name}; id -Gn {name}; '
            f"if [ -r /etc/shadow ]; then grep {line} /etc/shadow | cut -d: -f2; fi; fi"
        )

    def parse(self, raw: bytes) -> UserFact:
        lines = raw.decode(errors="backslashreplace").splitlines()
        if len(lines) < 3:
            return UserFact()
        _, _, uid, _, comment, home, shell = (lines[0].split(":") + [""] * 7)[:7]
        group = lines[1]
        shadow = lines[3] if len(lines) > 3 else ""
        return UserFact(
            there=True,
            uid=int(uid),
            group=group,
            comment=comment,
            home=home,
            shell=shell,
            groups=tuple(sorted(name for name in lines[2].split() if name != group)),
            password=sealed_password(shadow.removeprefix("!")) if shadow else "",
            locked=shadow.startswith("!"),
        )


class GroupFact(Fact, frozen=True, kw_only=True):
    """A group of users."""

    there: bool = False
    gid: int | None = None


class GroupNeed(Need[GroupFact], frozen=True, kw_only=True, tag="group"):
    """A group as the host knows it."""

    name: str

    @property
    def key(self) -> str:
        return f"group {self.name}"

    def script(self) -> str:
        return f"getent group {shlex.quote(self.name)} || grep {shlex.quote(f'^{re.escape(self.name)}:')} /etc/group"

    def parse(self, raw: bytes) -> GroupFact:
        words = raw.decode(errors="backslashreplace").strip().split(":")
        return GroupFact(there=True, gid=int(words[2])) if len(words) > 2 else GroupFact()


class GroupOperation(Operation, frozen=True, kw_only=True):
    """A group of users is there, or is not.

    name: of the group. gid: its number. system: with a number of the system's. state: present or absent.
    """

    kind: ClassVar[str] = "group"
    short: ClassVar[str] = "name"

    name: str
    gid: int | None = None
    system: bool = False
    state: Literal["present", "absent"] = "present"

    def faults(self) -> Iterable[tuple[str, str, str]]:
        yield from name_faults("name", self.name)

    def needs(self, context: Context) -> Sequence[Need[Any]]:  # noqa: ARG002
        return [GroupNeed(name=self.name)]

    def decide(self, context: Context, state: State) -> Iterator[AnyStep]:  # noqa: ARG002
        need = GroupNeed(name=self.name)
        fact = state.get(need)
        if self.state == "absent":
            if fact.there:
                state.put(need, GroupFact())
                yield Run(
                    title=f"remove the group {self.name}",
                    script=f"groupdel {self.name}",
                    undo=f"groupadd -g {fact.gid} {self.name}",
                )
            return
        if not fact.there:
            words = [*(["-r"] if self.system else []), *(["-g", str(self.gid)] if self.gid is not None else [])]
            state.put(need, GroupFact(there=True, gid=self.gid), sure=self.gid is not None)
            script = f"getent group {self.name} >/dev/null || {shlex.join(['groupadd', *words, self.name])}"
            if not words:
                script = f"{script} || addgroup {self.name}"
            yield Run(title=f"make the group {self.name}", script=script, undo=f"groupdel {self.name}")
        elif self.gid is not None and fact.gid not in (None, self.gid):
            state.put(need, GroupFact(there=True, gid=self.gid))
            yield Run(
                title=f"change the number of the group {self.name}",
                diff=f"gid {fact.gid} → {self.gid}\n",
                script=f"groupmod -g {self.gid} {self.name}",
                undo=f"groupmod -g {fact.gid} {self.name}",
            )


class UserOperation(Operation, frozen=True, kw_only=True):
    """A user is there with these attributes, or is not. What is not said stays as it is.

    name: of the user. uid: its number. group: primary group. groups: other groups. append: leave the user in further
    groups, too. comment: full name. home: folder. shell: program. create_home: make the folder of a new user. system:
    a user of the system. password: hash, as `openssl passwd -6` gives it; from a secret. locked: whether the password
    lets nobody in. state: present or absent. remove_home: take away the folder of a user who is absent.
    """

    kind: ClassVar[str] = "user"
    short: ClassVar[str] = "name"

    name: str
    uid: int | None = None
    group: str | None = None
    groups: tuple[str, ...] | None = None
    append: bool = True
    comment: str | None = None
    home: str | None = None
    shell: str | None = None
    create_home: bool = True
    system: bool = False
    password: str | None = None
    locked: bool | None = None
    state: Literal["present", "absent"] = "present"
    remove_home: bool = False

    def faults(self) -> Iterable[tuple[str, str, str]]:
        yield from name_faults("name", self.name)
        for one in (self.group, *(self.groups or ())):
            if one is not None:
                yield from name_faults("groups", one)
        for field, value in (("comment", self.comment), ("home", self.home), ("shell", self.shell)):
            if value is not None and any(char in value for char in ":\n\0"):
                yield field, "cannot hold colons or line ends", ""
        if self.password is not None and (not self.password.startswith("$") or ":" in self.password):
            yield "password", "is not a hash", "openssl passwd -6 makes one; keep it in a secret"

    def needs(self, context: Context) -> Sequence[Need[Any]]:  # noqa: ARG002
        return [UserNeed(name=self.name)]

    def decide(self, context: Context, state: State) -> Iterator[AnyStep]:
        need = UserNeed(name=self.name)
        fact = state.get(need)
        if self.state == "absent":
            if fact.there:
                state.put(need, UserFact())
                words = ["userdel", *(["-r"] if self.remove_home else []), self.name]
                yield Run(title=f"remove the user {self.name}", script=shlex.join(words))
        elif not fact.there:
            yield from self._add(context, state, need)
        else:
            yield from self._change(state, need, fact)

    def _add(self, context: Context, state: State, need: UserNeed) -> Iterator[AnyStep]:
        words = ["useradd", "-m" if self.create_home and not self.system else "-M"]
        if self.system:
            words.append("-r")
        for flag, value in (
            ("-u", self.uid), ("-g", self.group), ("-c", self.comment), ("-d", self.home), ("-s", self.shell)
        ):  # fmt: skip
            if value is not None:
                words += [flag, str(value)]
        if self.groups:
            words += ["-G", ",".join(self.groups)]
        told = "".join(f"{name} {value}\n" for name, value in self._said().items())
        fact = UserFact(
            there=True,
            uid=self.uid,
            group=self.group or self.name,
            comment=self.comment or "",
            home=self.home or f"/home/{self.name}",
            shell=self.shell or "",
            groups=tuple(sorted(self.groups or ())),
        )
        state.put(need, fact, sure=False)
        state.loose = state.loose or context.name  # its folder comes with it
        script = f"id -u {self.name} >/dev/null 2>&1 || {shlex.join([*words, self.name])}"
        yield Run(title=f"make the user {self.name}", diff=told, script=script, undo=f"userdel {self.name}", loose=True)
        if self.password is not None or self.locked:
            state.put(need, fact, sure=False)
            yield self._secret(UserFact(there=True))

    def _change(self, state: State, need: UserNeed, fact: UserFact) -> Iterator[AnyStep]:
        if self.uid is not None and fact.uid is not None and fact.uid != self.uid:
            raise Refused(
                f"user {self.name} has the number {fact.uid}, not {self.uid}", hint="files would lose their owner"
            )
        words: list[str] = []
        back: list[str] = []
        told = ""
        new = fact
        pairs = (("-g", "group"), ("-c", "comment"), ("-d", "home"), ("-s", "shell"))
        for flag, name in pairs:
            wanted, now = getattr(self, name), getattr(fact, name)
            if wanted is not None and wanted != now:
                words += [flag, wanted]
                back += [flag, now]
                told += f"{name} {now or 'none'} → {wanted}\n"
                new = msgspec.structs.replace(new, **{name: wanted})
        if self.groups is not None:
            wanted_groups = set(self.groups) | (set(fact.groups) if self.append else set())
            if wanted_groups != set(fact.groups):
                words += ["-G", ",".join(sorted(wanted_groups))]
                back += ["-G", ",".join(fact.groups)]
                told += f"groups {', '.join(fact.groups) or 'none'} → {', '.join(sorted(wanted_groups)) or 'none'}\n"
                new = msgspec.structs.replace(new, groups=tuple(sorted(wanted_groups)))
        if words:
            state.put(need, new)
            yield Run(
                title=f"change the user {self.name}",
                diff=told,
                script=shlex.join(["usermod", *words, self.name]),
                undo=shlex.join(["usermod", *back, self.name]),
            )
        other = self.password is not None and fact.password != sealed_password(self.password)
        if other or (self.locked is not None and self.locked != fact.locked):
            password = sealed_password(self.password) if self.password is not None else fact.password
            locked = fact.locked if self.locked is None else self.locked
            state.put(need, msgspec.structs.replace(new, password=password, locked=locked), sure=not other)
            yield self._secret(fact)

    def _secret(self, fact: UserFact) -> Run:
        """Return the step that sets the hash and the lock. The hash comes by stdin: others see command lines."""
        script, stdin, told = "", None, ""
        if self.password is not None and fact.password != sealed_password(self.password):
            script, stdin, told = "chpasswd -e", f"{self.name}:{self.password}\n".encode(), "another password\n"
        if self.locked is not None and (self.locked != fact.locked or stdin):
            flag = "-L" if self.locked else "-U"
            script = f"{script}{' && ' if script else ''}usermod {flag} {self.name}"
            told += "locked\n" if self.locked else "not locked\n"
        return Run(title=f"change the password of {self.name}", diff=told, script=script, stdin=stdin)

    def _said(self) -> dict[str, str]:
        found = {name: getattr(self, name) for name in ("uid", "group", "comment", "home", "shell")}
        return {
            **{name: str(value) for name, value in found.items() if value is not None},
            **({"groups": ", ".join(self.groups)} if self.groups else {}),
        }


def name_faults(field: str, name: str) -> Iterator[tuple[str, str, str]]:
    if not _NAME.fullmatch(name):
        yield field, f"'{name}' cannot be the name of a user or group", ""


def sealed_password(hash_: str) -> str:
    """Return what stands for a hash in facts: plans are kept in files."""
    return hashlib.sha256(hash_.encode()).hexdigest()[:32]
