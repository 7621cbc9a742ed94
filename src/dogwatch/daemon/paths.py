"""Where the daemon keeps its things."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

STORE_FILE = "dogwatch.sqlite"


def default_data_dir(environ: Mapping[str, str]) -> Path:
    """Return the data folder: DOGWATCH_DATA, /var/lib/dogwatch for root, else the user's state folder."""
    if environ.get("DOGWATCH_DATA"):
        return Path(environ["DOGWATCH_DATA"])
    if os.geteuid() == 0:
        return Path("/var/lib/dogwatch")
    state = environ.get("XDG_STATE_HOME") or Path(environ.get("HOME", "~")).expanduser() / ".local" / "state"
    return Path(state) / "dogwatch"


def admin_socket(data_dir: Path) -> Path:
    return data_dir / "admin.sock"
