"""The operation `mount`: file systems, now and after a start of the machine."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, ClassVar, Literal

from dogwatch.fleet.operations.files import Wanted, path_needs
from dogwatch.fleet.operations.operation import Context, Operation
from dogwatch.fleet.operations.paths import PathNeed, path_fault
from dogwatch.fleet.operations.state import Fact, Need, Refused, State
from dogwatch.fleet.operations.steps import AnyStep, Run
from dogwatch.fleet.operations.text import bare, current, edited, insert, split


class MountFact(Fact, frozen=True, kw_only=True):
    """What is mounted at a path. source and type are "" where nothing is."""

    source: str = ""
    type: str = ""


class MountNeed(Need[MountFact], frozen=True, kw_only=True, tag="mount"):
    """What is mounted at a path: the last one, where several are."""

    path: str

    @property
    def key(self) -> str:
        return f"mount {self.path}"

    def script(self) -> str:
        wanted = shlex.quote(escaped(self.path))
        return (
            f'while read -r s d t _; do [ "$d" != {wanted} ] || {{ x=$s; y=$t; }}; done < /proc/self/mounts; '
            'printf "%s %s\\n" "$x" "$y"'
        )

    def parse(self, raw: bytes) -> MountFact:
        source, _, type_ = raw.decode(errors="backslashreplace").strip().partition(" ")
        return MountFact(source=unescaped(source), type=type_)


class MountOperation(Operation, frozen=True, kw_only=True):
    """A file system is mounted, and stands in /etc/fstab; or is not, and does not.

    path: where. src: what: a device, `UUID=…`, `host:/export`. type: of the file system. options: as mount takes them.
    dump: the fifth field. check: the sixth. state: mounted (in the file, and now), present (only in the file),
    unmounted (not now; the file stays as it is) or absent (neither). fstab: the file.
    """

    kind: ClassVar[str] = "mount"

    path: str
    src: str = ""
    type: str = "auto"
    options: str = "defaults"
    dump: int = 0
    check: int = 0
    state: Literal["mounted", "present", "unmounted", "absent"] = "mounted"
    fstab: str = "/etc/fstab"

    def faults(self) -> Iterable[tuple[str, str, str]]:
        for field in ("path", "fstab"):
            if fault := path_fault(getattr(self, field)):
                yield field, fault, ""
        if self.state in ("mounted", "present") and not self.src:
            yield "src", "is missing", ""
        for field in ("type", "options"):
            if not getattr(self, field) or any(char.isspace() for char in getattr(self, field)):
                yield field, "must be one word", ""

    def needs(self, context: Context) -> Sequence[Need[Any]]:  # noqa: ARG002
        return [MountNeed(path=self.path), PathNeed(path=self.path), *path_needs(self.fstab)]

    def decide(self, context: Context, state: State) -> Iterator[AnyStep]:  # noqa: ARG002
        need = MountNeed(path=self.path)
        fact = state.get(need)
        path = shlex.quote(self.path)
        if self.state in ("unmounted", "absent") and fact.type:
            state.put(need, MountFact())
            state.forget(PathNeed(path=self.path), f"unmount {self.path}")
            # What stood in the file would mount it again; a mount by hand is told by its source.
            undo = shlex.join(["mount", "-t", fact.type, "--", fact.source, self.path])
            yield Run(title=f"unmount {self.path}", script=f"umount -- {path}", undo=undo)
        if self.state == "unmounted":
            return
        before = current(state, self.fstab, create=True)
        after = self._changed(before)
        yield from edited(state, self.fstab, after, Wanted())
        if self.state != "mounted":
            return
        if not fact.type:
            if state.get(PathNeed(path=self.path)).type not in ("directory", "link") and not state.loose:
                raise Refused(f"{self.path} is no folder", hint="an operation `directory` before this one makes it")
            state.put(need, MountFact(source=self.src, type=self.type), sure=False)
            state.forget(PathNeed(path=self.path), f"mount {self.path}")
            yield Run(
                title=f"mount {self.path}",
                diff=f"{self.src} ({self.type}, {self.options})\n",
                script=self._mount(),
                undo=f"umount -- {path}",
                skip=f"mountpoint -q {path}",
            )
        elif after != before:
            yield Run(title=f"mount {self.path} anew with its options", script=self._mount("remount"))

    def _mount(self, more: str = "") -> str:
        options = ",".join(one for one in (more, self.options) if one and one != "defaults")
        words = ["mount", "-t", self.type, *(["-o", options] if options else []), "--", self.src, self.path]
        return shlex.join(words)

    def _changed(self, text: str) -> str:
        lines, end = split(text)
        words = [escaped(self.src), escaped(self.path), self.type, self.options, str(self.dump), str(self.check)]
        at = [number for number, line in enumerate(lines) if _place(line) == self.path]
        if self.state == "absent":
            return "".join(line for number, line in enumerate(lines) if number not in at)
        if not at:
            insert(lines, len(lines), ["\t".join(words) + end], end)
        elif lines[at[-1]].split() != words:
            lines[at[-1]] = "\t".join(words) + end
        return "".join(lines)


def _place(line: str) -> str:
    words = bare(line).split()
    return unescaped(words[1]) if len(words) > 1 and not words[0].startswith("#") else ""


def escaped(text: str) -> str:
    """Return a path as fstab and the kernel write it."""
    for char in "\\ \t\n":
        text = text.replace(char, f"\\{ord(char):03o}")
    return text


def unescaped(text: str) -> str:
    for char in "\n\t \\":
        text = text.replace(f"\\{ord(char):03o}", char)
    return text
