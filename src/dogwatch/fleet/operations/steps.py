"""The few ways in which anything on a host is changed: each is bounded, told in a line, and written to a plan.

script.py carries them out in sh. A step that was begun and not seen to end may be made again.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

import msgspec


class Step(msgspec.Struct, frozen=True, kw_only=True, tag_field="do"):
    """One change. title: for people.

    diff: what it changes, lines of a unified diff or words; "" where the title says all.
    effects: key of a fact → its digest after the step, "?" where nobody can foretell it.
    """

    title: str
    diff: str = ""
    effects: Mapping[str, str] = {}


class Write(Step, frozen=True, kw_only=True, tag="write"):
    """Writes a file beside its place and renames it into it. before: digest of what is replaced, `absent`, or `*`."""

    path: str
    content: bytes
    mode: int
    owner: str
    group: str
    before: str = "*"


class Attributes(Step, frozen=True, kw_only=True, tag="attributes"):
    """Changes permissions or owner of what is there. None: as it is."""

    path: str
    mode: int | None = None
    owner: str | None = None
    group: str | None = None


class MakeDirectory(Step, frozen=True, kw_only=True, tag="directory"):
    """Makes one folder; the one above it is there."""

    path: str
    mode: int
    owner: str
    group: str


class Link(Step, frozen=True, kw_only=True, tag="link"):
    """Makes a link, in the place of a link or file that is there. hard: another name of the file itself."""

    path: str
    target: str
    hard: bool = False


class Remove(Step, frozen=True, kw_only=True, tag="remove"):
    """Takes away what is there, with everything below it; it is kept aside for the way back."""

    path: str


class Run(Step, frozen=True, kw_only=True, tag="run"):
    """Runs a program. script: for /bin/sh, every value in it quoted. undo: the way back, "" where there is none.

    stdin: given to it. skip: a script that succeeds where nothing is left to do, asked when it is made again. loose:
    it may bring more than the facts foretell, so that what is decided after it is checked again.
    """

    script: str
    undo: str = ""
    stdin: bytes | None = None
    skip: str = ""
    loose: bool = False


class Unpack(Step, frozen=True, kw_only=True, tag="unpack"):
    """Puts the files of a tar archive below a folder, each whole. names: those that it holds."""

    path: str
    content: bytes
    names: tuple[str, ...]
    owner: str = ""
    group: str = ""


AnyStep: TypeAlias = Write | Attributes | MakeDirectory | Link | Remove | Run | Unpack
