"""`group_vars/` and `host_vars/` beside an Ansible inventory."""

from __future__ import annotations

from pathlib import Path

from dogwatch.config.files import read_bounded
from dogwatch.core.component import nearest
from dogwatch.fleet.inventory.draft import ALL, UNGROUPED, Draft, Place, Settings
from dogwatch.fleet.inventory.lined import Lined, read_yaml

MAX_BYTES = 16 * 2**20
_SUFFIXES = ("", ".yml", ".yaml", ".json")
_VAULT = "$ANSIBLE_VAULT"


def read_text(path: Path) -> str:
    """Return a file's text. Raises: ValueError saying why not."""
    try:
        return read_bounded(path, MAX_BYTES).decode("utf-8-sig")
    except UnicodeDecodeError:
        raise ValueError("is not UTF-8") from None
    except OSError as error:
        raise ValueError(f"cannot be read: {(error.strerror or str(error)).lower()}") from None


def read_folders(beside: Path, draft: Draft) -> None:
    """Put the variables of the two folders into the draft; `beside` is the folder that the inventory lies in."""
    for entry in _entries(beside / "group_vars"):
        name = _name(entry)
        if name not in draft.groups and name not in (ALL, UNGROUPED):
            draft.warn(
                Place(str(entry)), f"is of a group that is not there: '{name}'", nearest(name, list(draft.groups))
            )
            continue
        _read(entry, draft.group(name, Place(str(entry))).file_vars, draft)
    for entry in _entries(beside / "host_vars"):
        name = _name(entry)
        if name not in draft.hosts:
            draft.warn(Place(str(entry)), f"is of a host that is not there: '{name}'", nearest(name, list(draft.hosts)))
            continue
        _read(entry, draft.hosts[name].file_vars, draft)


def _entries(folder: Path) -> list[Path]:
    """Return what counts of a folder, in order of names. Editors' leftovers and other formats do not."""
    if not folder.is_dir():
        return []
    found = [entry for entry in folder.iterdir() if entry.name[0] != "." and not entry.name.endswith("~")]
    return sorted(entry for entry in found if entry.is_dir() or _suffix(entry) is not None)


def _suffix(entry: Path) -> str | None:
    """Return the file's suffix where it is one of variables. A host's name has dots of its own: `web.example`."""
    for suffix in _SUFFIXES[1:]:
        if entry.name.endswith(suffix):
            return suffix
    return None if entry.suffix in (".ini", ".cfg", ".orig", ".retry", ".pyc", ".bak", ".md", ".rst", ".j2") else ""


def _name(entry: Path) -> str:
    suffix = _suffix(entry) if entry.is_file() else ""
    return entry.name.removesuffix(suffix) if suffix else entry.name


def _read(entry: Path, into: Settings, draft: Draft) -> None:
    if entry.is_dir():
        for below in _entries(entry):
            _read(below, into, draft)
        return
    place = Place(str(entry), 1)
    try:
        text = read_text(entry)
    except ValueError as error:
        draft.problem(Place(str(entry)), str(error))
        return
    if text.startswith(_VAULT):
        draft.warn(place, "is sealed by Ansible Vault; its variables are not known here")
        return
    root, problems = read_yaml(str(entry), text)
    draft.problems += problems
    if root is None:
        return
    if not isinstance(root, Lined):
        draft.problem(place, "expected variables, 'name: value', at the top")
        return
    draft.set_vars(into, root, place)
