"""Puts the compiled modules into a wheel where DOGWATCH_COMPILE=1 asks for them; otherwise it is one for every machine.

They are built by scripts/compile.py and are a copy of what the sources say: the sources go along, and are used wherever
the compiled ones do not fit.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class CompileHook(BuildHookInterface):  # type: ignore[type-arg,misc]
    PLUGIN_NAME = "custom"

    def dependencies(self) -> list[str]:
        return ["mypy[mypyc]", "setuptools", "msgspec"] if wanted() else []

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if self.target_name != "wheel" or version == "editable" or not wanted():
            return
        root = Path(self.root)
        subprocess.run([sys.executable, str(root / "scripts" / "compile.py"), "--strict"], check=True)
        build_data["pure_python"] = False
        build_data["infer_tag"] = True
        build_data["force_include"][str(root / "src" / "dogwatch" / "_compiled")] = "dogwatch/_compiled"


def wanted() -> bool:
    return os.environ.get("DOGWATCH_COMPILE") == "1"
