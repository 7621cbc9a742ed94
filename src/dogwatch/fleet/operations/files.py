"""Decisions about paths that several operations share: content, permissions, folders, links, removal."""

from __future__ import annotations

import difflib
from collections.abc import Iterator

import msgspec

from dogwatch.core.units import format_size
from dogwatch.fleet.operations.paths import PathFact, PathNeed, digest, parent
from dogwatch.fleet.operations.state import Later, Refused, State
from dogwatch.fleet.operations.steps import AnyStep, Attributes, Link, MakeDirectory, Remove, Write
from dogwatch.fleet.operations.who import WhoNeed

_DIFF_LINES = 400
_DIFF_CHARS = 500


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """Permissions and owner as they should be; None: as they are, or as new ones are by default."""

    mode: int | None = None
    owner: str | None = None
    group: str | None = None


def parse_mode(text: str | None) -> int | None:
    """Return the number of `644` or `0644`. Raises: Refused."""
    if text is None:
        return None
    if not text or len(text) > 5 or any(char not in "01234567" for char in text):
        raise Refused(f"'{text}' is not permissions", hint='octal, and quoted in YAML: mode: "644"')
    return int(text, 8)


def path_needs(path: str, *, content: bool = True) -> list[PathNeed | WhoNeed]:
    """Return what must be known to put something at a path."""
    above = parent(path)
    needs: list[PathNeed | WhoNeed] = [PathNeed(path=path, content=content), WhoNeed()]
    return [*needs, PathNeed(path=above)] if above != "/" else needs


def existing(state: State, path: str) -> PathFact:
    """Return what is at a path whose content is to be edited. Raises: Later where it may come with a change before."""
    fact = state.get(PathNeed(path=path, content=True))
    if fact.type == "absent" and state.loose:
        raise Later(state.loose)
    if fact.type == "file" and fact.content is None:
        raise Refused(f"{path} is longer than 1 MiB: it is not edited")
    return fact


def put_file(
    state: State, path: str, content: bytes, wanted: Wanted, *, replace_link: bool = False
) -> Iterator[AnyStep]:
    """Yield what makes the file at a path have this content and these attributes."""
    need = PathNeed(path=path, content=True)
    fact = state.get(need)
    if fact.type == "link" and not replace_link:
        raise Refused(f"{path} is a symbolic link to {fact.target}", hint="name the file itself, or force: true")
    if fact.type in ("directory", "other"):
        raise Refused(f"{path} is {'a folder' if fact.type == 'directory' else 'neither file nor folder'}")
    new = _settled(state, fact if fact.type == "file" else PathFact(), wanted, 0o644)
    new = msgspec.structs.replace(new, type="file", sha256=digest(content), content=content)
    if fact.type == "file" and fact.sha256 == new.sha256:
        yield from _attributes(state, need, fact, new)
        return
    _need_folder(state, path)
    told = difference(fact.content if fact.type == "file" else b"", content)
    more = "" if fact.type == "absent" else told_attributes(fact, new)
    state.put(need, new)
    yield Write(
        title=f"{'create' if fact.type == 'absent' else 'change'} {path}",
        diff=more + told,
        path=path,
        content=content,
        mode=new.mode,
        owner=_given(wanted.owner, new.owner),
        group=_given(wanted.group, new.group),
        before="*" if state.loose and fact.type == "absent" else (fact.sha256 or "absent"),
    )


def put_attributes(state: State, path: str, wanted: Wanted, *, content: bool = False) -> Iterator[AnyStep]:
    """Yield what gives these attributes to what is at a path."""
    need = PathNeed(path=path, content=content)
    fact = state.get(need)
    yield from _attributes(state, need, fact, _settled(state, fact, wanted, fact.mode))


def put_directory(state: State, path: str, wanted: Wanted) -> Iterator[AnyStep]:
    """Yield what makes a folder with these attributes, where the one above it is there."""
    need = PathNeed(path=path)
    fact = state.get(need)
    if fact.type == "directory":
        yield from _attributes(state, need, fact, _settled(state, fact, wanted, fact.mode))
        return
    if fact.type != "absent":
        raise Refused(f"{path} is there and is no folder")
    _need_folder(state, path)
    new = msgspec.structs.replace(_settled(state, PathFact(), wanted, 0o755), type="directory")
    state.put(need, new)
    yield MakeDirectory(
        title=f"make the folder {path}",
        path=path,
        mode=new.mode,
        owner=_given(wanted.owner, new.owner),
        group=_given(wanted.group, new.group),
    )


def put_link(state: State, path: str, target: str, *, force: bool) -> Iterator[AnyStep]:
    """Yield what makes a symbolic link."""
    need = PathNeed(path=path)
    fact = state.get(need)
    if fact.type == "link" and fact.target == target:
        return
    if fact.type == "directory" or (fact.type not in ("absent", "link") and not force):
        raise Refused(f"{path} is there and is no link", hint="" if fact.type == "directory" else "force: true")
    _need_folder(state, path)
    who = state.get(WhoNeed())
    state.put(need, PathFact(type="link", mode=0o777, owner=who.user, group=who.group, target=target))
    before = f"-{fact.target}\n" if fact.type == "link" else ""
    verb = "make" if fact.type == "absent" else "change"
    yield Link(title=f"{verb} the link {path}", diff=f"{before}+{target}\n", path=path, target=target)


def remove(state: State, path: str, *, folder: bool = False) -> Iterator[AnyStep]:
    """Yield what takes away what is at a path; a folder only where that is meant."""
    need = PathNeed(path=path)
    fact = state.get(need)
    if fact.type == "absent":
        return
    if fact.type == "directory" and not folder:
        raise Refused(f"{path} is a folder", hint="directory: {path: …, state: absent} takes folders away")
    state.put(need, PathFact())
    yield Remove(title=f"remove {path}", path=path, diff="with everything below it\n" if folder else "")


def difference(before: bytes | None, after: bytes) -> str:
    """Return the lines of a unified diff, bounded; a few words where one of them is no text or too long."""
    if before is None:
        return f"the old content is too long to be shown; new: {format_size(len(after))}\n"
    try:
        old, new = before.decode().splitlines(keepends=True), after.decode().splitlines(keepends=True)
    except UnicodeDecodeError:
        return f"not text: {format_size(len(before))} before, {format_size(len(after))} after\n"
    if len(old) + len(new) > 20_000:
        return f"{len(old)} lines before, {len(new)} after\n"
    lines = list(difflib.unified_diff(old, new, n=2))[2:]
    more = f"… {len(lines) - _DIFF_LINES} more lines\n" if len(lines) > _DIFF_LINES else ""
    return "".join(_bounded(line) for line in lines[:_DIFF_LINES]) + more


def _bounded(line: str) -> str:
    line = line.removesuffix("\n")
    return f"{line if len(line) <= _DIFF_CHARS else f'{line[:_DIFF_CHARS]}…'}\n"


def told_attributes(before: PathFact, after: PathFact) -> str:
    """Return `mode 644 → 600` and the like, each on a line."""
    lines = []
    if before.mode != after.mode:
        lines.append(f"mode {before.mode:o} → {after.mode:o}\n")
    if before.owner != after.owner:
        lines.append(f"owner {before.owner} → {after.owner}\n")
    if before.group != after.group:
        lines.append(f"group {before.group} → {after.group}\n")
    return "".join(lines)


def _attributes(state: State, need: PathNeed, fact: PathFact, new: PathFact) -> Iterator[AnyStep]:
    told = told_attributes(fact, new)
    if not told:
        return
    state.put(need, new)
    yield Attributes(
        title=f"change the attributes of {need.path}",
        diff=told,
        path=need.path,
        mode=None if fact.mode == new.mode else new.mode,
        owner=None if fact.owner == new.owner else new.owner,
        group=None if fact.group == new.group else new.group,
    )


def _settled(state: State, fact: PathFact, wanted: Wanted, mode: int) -> PathFact:
    """Return the fact with wanted attributes; of what is not there yet, those that new things get."""
    who = state.get(WhoNeed())
    there = fact.type != "absent"
    owner = fact.owner if there else who.user
    group = fact.group if there else who.group
    return msgspec.structs.replace(
        fact,
        mode=(fact.mode if there else mode) if wanted.mode is None else wanted.mode,
        owner=owner if wanted.owner in (None, str(fact.uid)) else str(wanted.owner),
        group=group if wanted.group in (None, str(fact.gid)) else str(wanted.group),
    )


def _given(wanted: str | None, settled: str) -> str:
    return settled if wanted is None else wanted


def _need_folder(state: State, path: str) -> None:
    above = parent(path)
    if above == "/" or not state.knows(PathNeed(path=above)):
        return
    fact = state.get(PathNeed(path=above))
    # What a package is about to bring is not there yet; a link may lead to a folder: the change itself would tell.
    if fact.type not in ("directory", "link") and not (fact.type == "absent" and state.loose):
        raise Refused(f"the folder {above} is not there", hint="an operation `directory` before this one makes it")
