"""Whether OpenSSH's configuration says anything that a plain login would heed."""

from __future__ import annotations

import glob
import shlex
from collections.abc import Sequence
from pathlib import Path

_DEPTH = 8
# About which machine a line is, or about what is not done here at all.
_WITHOUT_EFFECT = frozenset(
    {
        "host", "sendenv", "hashknownhosts", "gssapiauthentication", "gssapidelegatecredentials", "gssapikeyexchange",
        "forwardagent", "forwardx11", "forwardx11trusted", "forwardx11timeout", "xauthlocation", "loglevel",
        "visualhostkey", "controlmaster", "controlpath", "controlpersist", "batchmode", "escapechar", "requesttty",
        "permitlocalcommand", "updatehostkeys", "checkhostip", "tcpkeepalive", "addkeystoagent", "identitiesonly",
        "numberofpasswordprompts", "exitonforwardfailure", "connectionattempts", "compression", "enablesshkeysign",
    }
)  # fmt: skip


def is_plain(configs: Sequence[str]) -> bool:
    """Return whether nothing in these files changes how a host is reached."""
    try:
        return all(_is_plain(Path(path), 0) for path in configs)
    except (OSError, ValueError):
        return False


def _is_plain(path: Path, depth: int) -> bool:
    if depth > _DEPTH:
        return False
    for line in path.read_text().splitlines():
        words = shlex.split(line.strip().replace("=", " ", 1), comments=True)
        if not words:
            continue
        keyword = words[0].lower()
        if keyword == "include":
            for pattern in words[1:]:
                whole = Path(pattern).expanduser()
                # What is not told whole is beside the file: below ~/.ssh or /etc/ssh, which is where these lie.
                found = glob.glob(str(whole if whole.is_absolute() else path.parent / whole))  # noqa: PTH207
                if not all(_is_plain(Path(one), depth + 1) for one in found):
                    return False
        elif keyword not in _WITHOUT_EFFECT:
            return False
    return True
