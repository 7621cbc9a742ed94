"""The operation `authorized_key`: who may log in as a user by SSH."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, ClassVar, Literal

import msgspec

from dogwatch.fleet.operations.accounts import UserNeed, name_faults
from dogwatch.fleet.operations.files import difference
from dogwatch.fleet.operations.operation import Context, Operation
from dogwatch.fleet.operations.paths import PRELUDE, PathFact, PathNeed, digest
from dogwatch.fleet.operations.state import CannotRead, Fact, Need, Refused, State
from dogwatch.fleet.operations.steps import AnyStep, Attributes, MakeDirectory, Write
from dogwatch.fleet.operations.text import bare, split

_CUT = "\ndogwatch-cut\n"
_TYPES = ("ssh-", "ecdsa-", "sk-")


class KeysFact(Fact, frozen=True, kw_only=True):
    """A user's ~/.ssh and the authorized_keys in it."""

    folder: PathFact = PathFact()
    file: PathFact = PathFact()

    def seal(self) -> str:
        return digest(f"{self.folder.seal()} {self.file.seal()}".encode())[:32]


class KeysNeed(Need[KeysFact], frozen=True, kw_only=True, tag="keys"):
    """The keys that may log in as a user."""

    prelude: ClassVar[str] = PRELUDE
    user: str

    @property
    def key(self) -> str:
        return f"authorized_keys {self.user}"

    def script(self) -> str:
        cut = shlex.quote(_CUT)
        return (
            f'h=$(getent passwd {shlex.quote(self.user)} | cut -d: -f6); [ -n "$h" ] || exit 0; '
            f'p "$h/.ssh" 0; printf %s {cut}; p "$h/.ssh/authorized_keys" 1'
        )

    def parse(self, raw: bytes) -> KeysFact:
        if not raw:
            return KeysFact()
        folder, cut, file = raw.partition(_CUT.encode())
        if not cut:
            raise CannotRead(f"the keys of {self.user} cannot be read")
        about = PathNeed(path=f"~{self.user}/.ssh")
        return KeysFact(
            folder=about.parse(folder), file=PathNeed(path=f"{about.path}/authorized_keys", content=True).parse(file)
        )


class AuthorizedKeyOperation(Operation, frozen=True, kw_only=True):
    """A key may log in as a user, or may not.

    user: as whom. key: the public key, one line, or several. options: what stands in front of it, such as
    `no-pty,command="…"`. exclusive: no other keys. state: present or absent.
    """

    kind: ClassVar[str] = "authorized_key"

    user: str
    key: str
    options: str = ""
    exclusive: bool = False
    state: Literal["present", "absent"] = "present"

    def faults(self) -> Iterable[tuple[str, str, str]]:
        yield from name_faults("user", self.user)
        for line in self._keys():
            if _body(line) is None:
                yield "key", f"'{line[:40]}' is not a public key", ""
        if not self._keys():
            yield "key", "says nothing", ""
        if "\n" in self.options:
            yield "options", "must be one line", ""
        if self.exclusive and self.state == "absent":
            yield "exclusive", "says nothing of keys that are absent", ""

    def needs(self, context: Context) -> Sequence[Need[Any]]:  # noqa: ARG002
        return [UserNeed(name=self.user), KeysNeed(user=self.user)]

    def decide(self, context: Context, state: State) -> Iterator[AnyStep]:  # noqa: ARG002
        user = state.get(UserNeed(name=self.user))
        need = KeysNeed(user=self.user)
        fact = state.get(need)
        if not user.there:
            if self.state == "absent":
                return
            raise Refused(f"there is no user {self.user}", hint="an operation `user` before this one makes it")
        if fact.folder.type not in ("absent", "directory") or fact.file.type not in ("absent", "file"):
            raise Refused(f"~{self.user}/.ssh is not as it should be: a link, or no folder", hint="look at it by hand")
        before = fact.file.content or b""
        after = self._changed(before.decode(errors="surrogateescape")).encode(errors="surrogateescape")
        home = f"{user.home}/.ssh"
        if fact.folder.type == "absent" and after != before:
            made = PathFact(type="directory", mode=0o700, owner=self.user, group=user.group)
            fact = msgspec.structs.replace(fact, folder=made)
            state.put(need, fact)
            yield MakeDirectory(
                title=f"make the folder {home}", path=home, mode=0o700, owner=self.user, group=user.group
            )
        path = f"{home}/authorized_keys"
        if after != before:
            new = PathFact(
                type="file", mode=0o600, owner=self.user, group=user.group, sha256=digest(after), content=after
            )
            state.put(need, msgspec.structs.replace(fact, file=new))
            yield Write(
                title=f"change the keys of {self.user}",
                diff=difference(before, after),
                path=path,
                content=after,
                mode=0o600,
                owner=self.user,
                group=user.group,
                before=fact.file.sha256 or ("*" if state.loose else "absent"),
            )
        elif fact.file.type == "file" and fact.file.mode & 0o022:
            state.put(need, msgspec.structs.replace(fact, file=msgspec.structs.replace(fact.file, mode=0o600)))
            yield Attributes(
                title=f"let only {self.user} write {path}",
                diff=f"mode {fact.file.mode:o} → 600\n",
                path=path,
                mode=0o600,
            )

    def _changed(self, text: str) -> str:
        lines, end = split(text)
        bodies = {_body(line) for line in self._keys()}
        if self.state == "absent":
            return "".join(line for line in lines if _body(bare(line)) not in bodies)
        wanted = [f"{self.options} {line}".strip() for line in self._keys()]
        if self.exclusive:
            return "".join(f"{line}\n" for line in wanted)
        if lines and not lines[-1].endswith("\n"):
            lines[-1] += end
        for line in wanted:
            same = [at for at, one in enumerate(lines) if _body(bare(one)) == _body(line)]
            if not same:
                lines.append(line + end)
            elif bare(lines[same[0]]) != line:
                lines[same[0]] = line + end
        return "".join(lines)

    def _keys(self) -> list[str]:
        return [line.strip() for line in self.key.splitlines() if line.strip() and not line.strip().startswith("#")]


def _body(line: str) -> str | None:
    """Return a line's key, without options and comment; None where it has none."""
    if line.lstrip().startswith("#"):
        return None
    words = line.split()
    for at, word in enumerate(words[:-1]):
        if word.startswith(_TYPES) and words[at + 1].startswith("AAAA"):
            return f"{word} {words[at + 1]}"
    return None
