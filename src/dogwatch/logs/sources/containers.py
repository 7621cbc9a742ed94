"""The `containers` source: the log files that containerd, CRI-O and Docker write."""

from __future__ import annotations

from typing import ClassVar

from dogwatch.logs.multiline import Multiline
from dogwatch.logs.sources.file import FileSource


class ContainersSource(FileSource, frozen=True, kw_only=True):
    """Follows the log files of containers, and puts lines together again that the engine split. `do: [container]` makes
    columns of them: message, stream, timestamp, and of Kubernetes pod, namespace and container.

    paths: default those of Kubernetes and Docker. exclude, start, encoding, max_line, search, poll, quiet, keep,
    multiline: as of `file`.
    """

    kind: ClassVar[str] = "containers"

    paths: tuple[str, ...] = ("/var/log/containers/*.log", "/var/lib/docker/containers/*/*-json.log")
    multiline: Multiline | None = Multiline(preset="containers", timeout=1.0)
