"""The operation `archive`: the files of an archive below a folder."""

from __future__ import annotations

import hashlib
import io
import shlex
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar

import msgspec

from dogwatch.core.units import format_size
from dogwatch.fleet.operations.operation import Context, Operation
from dogwatch.fleet.operations.paths import PathNeed, above, path_fault
from dogwatch.fleet.operations.state import Fact, Need, Refused, State
from dogwatch.fleet.operations.steps import AnyStep, Unpack

_MEMBERS = 20_000
_UNPACKED_BYTES = 256 * 1024 * 1024
# Names in one call of a program: command lines are bounded.
_NAMES_EACH = 500


class Member(msgspec.Struct, frozen=True):
    """A file of an archive. sha256: of its content, or of where a link leads."""

    mode: int
    link: str
    content: bytes

    @property
    def seal(self) -> str:
        return f"link {self.link}" if self.link else f"{self.mode:o} {hashlib.sha256(self.content).hexdigest()}"


class MembersFact(Fact, frozen=True, kw_only=True):
    """Name → `mode sha256` of what is there."""

    found: Mapping[str, str]


class MembersNeed(Need[MembersFact], frozen=True, kw_only=True, tag="members"):
    """Which of these files are below a folder, and what they hold."""

    path: str
    names: tuple[str, ...]

    @property
    def key(self) -> str:
        return f"files below {self.path} {hashlib.sha256(chr(10).join(self.names).encode()).hexdigest()[:16]}"

    def script(self) -> str:
        calls = []
        for at in range(0, len(self.names), _NAMES_EACH):
            words = " ".join(shlex.quote(f"./{name}") for name in self.names[at : at + _NAMES_EACH])
            calls.append(f"stat -c 'a %a %F %n' {words} 2>/dev/null; sha256sum {words} 2>/dev/null")
            calls.append(
                f'for x in {words}; do [ ! -L "$x" ] || printf \'l %s\\nt %s\\n\' "$x" "$(readlink "$x")"; done'
            )
        return f"cd {shlex.quote(self.path)} 2>/dev/null || exit 0; {'; '.join(calls)}"

    def parse(self, raw: bytes) -> MembersFact:
        modes: dict[str, str] = {}
        sums: dict[str, str] = {}
        links: dict[str, str] = {}
        link = ""
        for line in raw.decode(errors="backslashreplace").splitlines():
            if line.startswith("a "):
                before, _, name = line.partition(" ./")
                modes[name] = before.split(" ")[1]
            elif line.startswith("l "):
                link = line.removeprefix("l ./")
            elif line.startswith("t "):
                links[link] = line[2:]
            elif "  ./" in line:
                digest, _, name = line.partition("  ./")
                sums[name] = digest
        found = {name: f"{modes[name]} {digest}" for name, digest in sums.items() if name in modes}
        found.update({name: f"link {target}" for name, target in links.items()})
        return MembersFact(found=found)


class ArchiveOperation(Operation, frozen=True, kw_only=True):
    """The files of an archive are below a folder, as the archive has them. Others in the folder stay.

    src: a tar or zip file beside the playbook. path: the folder, which must be there. strip: so many folders are left
    out in front of each name. owner: user. group: group.
    """

    kind: ClassVar[str] = "archive"
    local_files: ClassVar[tuple[str, ...]] = ("src",)

    src: str
    path: str
    strip: int = 0
    owner: str = ""
    group: str = ""

    def faults(self) -> Iterable[tuple[str, str, str]]:
        if fault := path_fault(self.path):
            yield "path", fault, ""

    def needs(self, context: Context) -> Sequence[Need[Any]]:
        names = tuple(members_of(context.local(self.src), self.src, self.strip))
        return [
            MembersNeed(path=self.path, names=names),
            *(PathNeed(path=one) for one in [*above(self.path), self.path]),
        ]

    def decide(self, context: Context, state: State) -> Iterator[AnyStep]:
        members = members_of(context.local(self.src), self.src, self.strip)
        need = MembersNeed(path=self.path, names=tuple(members))
        fact = state.get(need)
        folder = state.get(PathNeed(path=self.path))
        if folder.type not in ("directory", "link") and not state.loose:
            raise Refused(
                f"the folder {self.path} is not there", hint="an operation `directory` before this one makes it"
            )
        other = {name: member for name, member in members.items() if fact.found.get(name) != member.seal}
        if not other:
            return
        state.put(need, MembersFact(found={name: member.seal for name, member in members.items()}))
        lines = [f"{'~' if name in fact.found else '+'}{name}\n" for name in list(other)[:50]]
        more = f"… {len(other) - 50} more\n" if len(other) > 50 else ""
        size = sum(len(member.content) for member in other.values())
        yield Unpack(
            title=f"unpack {len(other)} files of {self.src} to {self.path} ({format_size(size)})",
            diff="".join(lines) + more,
            path=self.path,
            content=packed(other),
            names=tuple(other),
            owner=self.owner,
            group=self.group,
        )


def members_of(data: bytes, src: str, strip: int) -> dict[str, Member]:
    """Return the files and links of an archive, by their names. Raises: Refused."""
    try:
        return _bounded(_zipped(data) if zipfile.is_zipfile(io.BytesIO(data)) else _tarred(data), src, strip)
    except (tarfile.TarError, zipfile.BadZipFile, zlib.error, EOFError, OSError, ValueError) as error:
        raise Refused(f"{src} cannot be read as an archive: {str(error).splitlines()[0]}") from None


def _bounded(found: Iterable[tuple[str, Member]], src: str, strip: int) -> dict[str, Member]:
    members: dict[str, Member] = {}
    size = 0
    for name, member in found:
        parts = [part for part in name.split("/") if part not in ("", ".")][strip:]
        if not parts:
            continue
        target = member.link
        if ".." in parts or name.startswith("/") or target.startswith("/") or ".." in target.split("/"):
            raise Refused(f"{src}: {name[:100]} leads out of the folder")
        if any(char in "/".join(parts) + target for char in "\n\\"):
            raise Refused(f"{src}: {name[:100]!r} is a name that is not unpacked")
        members["/".join(parts)] = member
        size += len(member.content)
        if len(members) > _MEMBERS or size > _UNPACKED_BYTES:
            raise Refused(f"{src} holds more than {_MEMBERS} files or {format_size(_UNPACKED_BYTES)}")
    return members


def _tarred(data: bytes) -> Iterator[tuple[str, Member]]:
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        for info in tar:
            if info.issym():
                yield info.name, Member(0o777, info.linkname, b"")
            elif info.isreg():
                if info.size > _UNPACKED_BYTES:
                    raise ValueError(f"{info.name} is too long")
                file = tar.extractfile(info)
                yield info.name, Member(info.mode & 0o777, "", file.read() if file is not None else b"")
            elif not info.isdir():
                raise ValueError(f"{info.name} is neither file, folder nor symbolic link")


def _zipped(data: bytes) -> Iterator[tuple[str, Member]]:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        for info in archive.infolist():
            if info.is_dir():
                continue
            if info.file_size > _UNPACKED_BYTES:
                raise ValueError(f"{info.filename} is too long")
            mode = info.external_attr >> 16
            content = archive.read(info)
            if stat.S_ISLNK(mode):
                yield info.filename, Member(0o777, content.decode(), b"")
            else:
                yield info.filename, Member((mode & 0o777) or 0o644, "", content)


def packed(members: Mapping[str, Member]) -> bytes:
    """Return a plain tar of these members; equal ones give equal bytes."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, member in members.items():
            info = tarfile.TarInfo(name)
            info.mode = member.mode
            if member.link:
                info.type, info.linkname = tarfile.SYMTYPE, member.link
                tar.addfile(info)
            else:
                info.size = len(member.content)
                tar.addfile(info, io.BytesIO(member.content))
    return out.getvalue()
