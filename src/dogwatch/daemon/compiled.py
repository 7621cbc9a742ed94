"""The path of every attempt, compiled: the same modules as machine code, where somebody has built them.

`scripts/compile` builds them with mypyc into `_compiled/` beside this package; wheels may bring them. They are used
only if every source is still the one that was compiled, so that whoever edits a module runs what it says.
"""

from __future__ import annotations

import hashlib
import os
import sys
import sysconfig
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ExtensionFileLoader, ModuleSpec
from importlib.util import spec_from_file_location
from pathlib import Path
from types import ModuleType

import msgspec

PACKAGE = Path(__file__).parent.parent
FOLDER = PACKAGE / "_compiled"
MANIFEST = "manifest.json"
# Set to 0, it leaves what is compiled aside.
SWITCH = "DOGWATCH_COMPILED"
# All or none: they reach into each other. What inherits from a class in here must be here as well.
MODULES = (
    "dogwatch.expressions.cel_compile",
    "dogwatch.expressions.conditions",
    "dogwatch.probes.engine.deadlines",
    "dogwatch.probes.engine.engine",
    "dogwatch.probes.http.attempt",
    "dogwatch.probes.http.connecting",
    "dogwatch.probes.http.curl",
    "dogwatch.probes.http.kept",
    "dogwatch.probes.http.lane",
    "dogwatch.probes.http.plan",
    "dogwatch.probes.http.response",
    "dogwatch.probes.http.result",
    "dogwatch.probes.lane",
    "dogwatch.probes.lateness",
    "dogwatch.probes.runner",
    "dogwatch.probes.schedule",
    "dogwatch.probes.target",
    "dogwatch.probes.watch",
    "dogwatch.store.columns",
    "dogwatch.store.intake",
    "dogwatch.store.successes",
    "dogwatch.store.tails",
)


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """What was built. suffix: of the interpreter it is for. files: by module. sources: hash of each source."""

    suffix: str
    files: dict[str, str]
    sources: dict[str, str]


class CompiledFinder(MetaPathFinder):
    """Finds compiled modules before Python finds their sources."""

    def __init__(self, folder: Path, files: dict[str, str]) -> None:
        self.folder = folder
        self.files = files

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None = None,  # noqa: ARG002 - as Python calls it
        target: ModuleType | None = None,  # noqa: ARG002
    ) -> ModuleSpec | None:
        name = self.files.get(fullname)
        if name is None:
            return None
        place = str(self.folder / name)
        return spec_from_file_location(fullname, place, loader=ExtensionFileLoader(fullname, place))


def source_of(module: str, package: Path = PACKAGE) -> Path:
    return package.parent.joinpath(*module.split(".")).with_suffix(".py")


def fingerprint(source: Path) -> str:
    return hashlib.blake2b(source.read_bytes(), digest_size=16).hexdigest()


def suffix() -> str:
    return str(sysconfig.get_config_var("EXT_SUFFIX"))


def activate(folder: Path = FOLDER) -> str:
    """Use the compiled modules from now on; return why that cannot be, or "". Call it before anything imports them."""
    if _active() is not None:
        return ""
    found = usable(folder)
    if isinstance(found, str):
        return found
    taken = [name for name in MODULES if name in sys.modules]
    if taken:
        return f"{taken[0]} was imported before"
    sys.meta_path.insert(0, CompiledFinder(folder, found.files))
    return ""


def usable(folder: Path = FOLDER) -> Manifest | str:
    """Return what is built there, or why it cannot be used."""
    if os.environ.get(SWITCH) == "0":
        return f"switched off by {SWITCH}=0"
    try:
        manifest = msgspec.json.decode((folder / MANIFEST).read_bytes(), type=Manifest)
    except FileNotFoundError:
        return "not built (make compile)"
    except (OSError, msgspec.DecodeError) as error:
        return f"cannot be read: {error}"
    if manifest.suffix != suffix():
        return f"built for another Python ({manifest.suffix})"
    if manifest.sources.keys() != set(MODULES):
        return "built from other sources (make compile)"
    for name, known in manifest.sources.items():
        if fingerprint(source_of(name)) != known:
            return f"built from another {name} (make compile)"
    return manifest


def status() -> str:
    """Return "compiled", or "interpreted" and why."""
    if _active() is not None:
        return "compiled"
    found = usable()
    return f"interpreted: {found if isinstance(found, str) else 'the compiled modules were not asked for'}"


def _active() -> CompiledFinder | None:
    return next((finder for finder in sys.meta_path if isinstance(finder, CompiledFinder)), None)
