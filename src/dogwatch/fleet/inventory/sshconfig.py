"""The hosts that an OpenSSH configuration names: `Host` lines without wildcards. Connecting reads its options."""

from __future__ import annotations

import glob
import shlex
from pathlib import Path

from dogwatch.fleet.inventory.draft import Draft, Place, name_fault
from dogwatch.fleet.inventory.folders import read_text

_DEPTH = 16


def read_ssh_config(path: Path, draft: Draft, *, depth: int = 0) -> None:
    """Put the named hosts of a file, and of the files that it includes, into the draft."""
    try:
        text = read_text(path)
    except ValueError as error:
        draft.problem(Place(str(path)), str(error))
        return
    for number, raw in enumerate(text.split("\n"), 1):
        place = Place(str(path), number)
        if not raw.strip().lower().startswith(("host", "include")):
            continue  # commands, too: their quotes need not be a shell's
        try:
            words = shlex.split(raw.strip().replace("=", " ", 1), comments=True)
        except ValueError as error:
            draft.problem(place, f"cannot be read: {str(error).lower()}")
            continue
        keyword = words[0].lower() if words else ""
        if keyword == "host":
            for name in words[1:]:
                if not any(char in name for char in "*?!") and not name_fault(name):
                    draft.host(name, place)
        elif keyword == "include":
            if depth >= _DEPTH:
                draft.problem(place, f"files include each other more than {_DEPTH} levels deep")
                continue
            for pattern in words[1:]:
                # Relative names are relative to ~/.ssh, which is where the main file usually lies.
                whole = Path(pattern).expanduser()
                for found in sorted(glob.glob(str(whole if whole.is_absolute() else path.parent / whole))):  # noqa: PTH207
                    read_ssh_config(Path(found), draft, depth=depth + 1)
