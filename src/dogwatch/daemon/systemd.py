"""sd_notify: tells a service manager where the daemon stands. Source: sd_notify(3)."""

from __future__ import annotations

import socket
from collections.abc import Mapping


def notify(environ: Mapping[str, str], *lines: str) -> bool:
    """Send `READY=1`, `STATUS=…`; returns whether there was somebody to tell. A lost message never disturbs."""
    address = environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return False
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
            channel.setblocking(False)
            channel.sendto("\n".join(lines).encode(), address.replace("@", "\0", 1))
    except OSError:
        return False
    return True
