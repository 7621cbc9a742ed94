"""Files beside a playbook: where they lie, and which ones a playbook that was sent from elsewhere may read."""

from __future__ import annotations

from pathlib import Path

from dogwatch.fleet.operations.state import Refused


def beside(folder: Path, name: str, *, confined: bool) -> Path:
    """Return the path of a file that a playbook names. confined: only what lies below its folder.

    Raises: Refused.
    """
    path = folder / name
    # By what it comes to, links included: `a/../../etc/shadow` and a link to it are the same question.
    if confined and not path.resolve().is_relative_to(folder.resolve()):
        raise Refused(f"{name}: a playbook that was sent along reads only the files that were sent with it")
    return path
