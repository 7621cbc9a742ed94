"""A playbook that is sent along with its files: one value, and a folder for as long as it is read."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

import msgspec

from dogwatch.errors import UsageError

MOST_FILES = 500


class Bundle(msgspec.Struct, frozen=True, kw_only=True):
    """main: which of the files is the playbook. files: by their paths below its folder."""

    main: str
    files: Mapping[str, bytes]


def checked(bundle: Bundle) -> Bundle:
    """Return the bundle. Raises: UsageError for names that lead out of a folder."""
    if bundle.main not in bundle.files:
        raise UsageError(f"'{bundle.main[:100]}' is not among the files that were sent")
    if len(bundle.files) > MOST_FILES:
        raise UsageError(f"these are {len(bundle.files)} files; a playbook may come with {MOST_FILES}")
    for name in bundle.files:
        path = PurePosixPath(name)
        if not name or path.is_absolute() or ".." in path.parts or "\0" in name or str(path) != name or name == ".":
            raise UsageError(f"'{name[:100]}' is not a path below the playbook's folder")
        if any(str(parent) in bundle.files for parent in path.parents):
            raise UsageError(f"'{name[:100]}' is in a folder that is a file, too")
    return bundle


@contextmanager
def unpacked(bundle: Bundle) -> Iterator[Path]:
    """Yield the path of the playbook in a folder of its own, which is gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="dogwatch-playbook-") as name:
        for file, data in checked(bundle).files.items():
            path = Path(name) / file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        yield Path(name) / bundle.main
