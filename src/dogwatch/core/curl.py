"""libcurl's multi handle on the event loop: many transfers side by side, without a thread."""

from __future__ import annotations

import asyncio
import ssl
from typing import Any, Protocol

import pycurl


def set_trust(handle: Any, *, ca_file: str, cert_file: str, key_file: str) -> None:
    """Say whom a transfer trusts, and who it is itself. "" for the machine's own trust, and for no certificate."""
    if ca_file:
        handle.setopt(pycurl.CAINFO, ca_file)
    else:
        paths = ssl.get_default_verify_paths()
        if paths.cafile:
            handle.setopt(pycurl.CAINFO, paths.cafile)
        if paths.capath:
            handle.setopt(pycurl.CAPATH, paths.capath)
    if cert_file:
        handle.setopt(pycurl.SSLCERT, cert_file)
        handle.setopt(pycurl.SSLKEY, key_file or cert_file)


class Owner(Protocol):
    """Whose transfer it is. Handles are pycurl.Curl, which has no types."""

    def transferred(self, code: int, message: str) -> None:
        """It ended. code: libcurl's, 0 where it went well."""
        ...

    def cut(self) -> None:
        """The loop was closed before it ended."""
        ...


class CurlLoop:
    """A multi handle that the running event loop drives; owned and closed by whoever made it.

    connections: open at the same time, 0 for as many as there are transfers.
    """

    def __init__(self, *, connections: int = 0) -> None:
        self._loop = asyncio.get_running_loop()
        self._multi = pycurl.CurlMulti()
        self._multi.setopt(pycurl.M_SOCKETFUNCTION, self._on_socket)
        self._multi.setopt(pycurl.M_TIMERFUNCTION, self._on_timer)
        if connections:
            self._multi.setopt(pycurl.M_MAX_TOTAL_CONNECTIONS, connections)
        self._owners: dict[Any, Owner] = {}
        self._watched: set[int] = set()
        self._timer: asyncio.TimerHandle | None = None
        self.closed = False

    def __len__(self) -> int:
        return len(self._owners)

    def add(self, handle: Any, owner: Owner) -> None:
        """Begin. Raises: pycurl.error."""
        self._multi.add_handle(handle)
        self._owners[handle] = owner

    def remove(self, handle: Any) -> None:
        """Forget a transfer, whether it ended or not, and close its handle."""
        if self._owners.pop(handle, None) is not None and not self.closed:
            self._multi.remove_handle(handle)
        handle.close()

    def close(self) -> None:
        """End everything. Safe to call twice."""
        if self.closed:
            return
        for handle in self._owners:
            self._multi.remove_handle(handle)
        self.closed = True
        if self._timer is not None:
            self._timer.cancel()
        self._multi.close()
        for fd in self._watched:
            self._loop.remove_reader(fd)
            self._loop.remove_writer(fd)
        self._watched.clear()
        for owner in list(self._owners.values()):
            owner.cut()

    def _on_socket(self, what: int, fd: int, _multi: Any, _data: Any) -> None:
        if fd in self._watched:
            self._loop.remove_reader(fd)
            self._loop.remove_writer(fd)
            self._watched.discard(fd)
        if what == pycurl.POLL_REMOVE:
            return
        if what & pycurl.POLL_IN:
            self._loop.add_reader(fd, self._act, fd, pycurl.CSELECT_IN)
        if what & pycurl.POLL_OUT:
            self._loop.add_writer(fd, self._act, fd, pycurl.CSELECT_OUT)
        self._watched.add(fd)

    def _on_timer(self, timeout_ms: int) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if timeout_ms >= 0:
            # Never from inside this call: libcurl forbids it.
            self._timer = self._loop.call_later(timeout_ms / 1000, self._act, pycurl.SOCKET_TIMEOUT, 0)

    def _act(self, fd: int, events: int) -> None:
        if self.closed:
            return
        self._multi.socket_action(fd, events)
        queued = 1
        while queued and not self.closed:
            queued, good, bad = self._multi.info_read()
            for handle in good:
                self._ended(handle, 0, "")
            for handle, code, message in bad:
                self._ended(handle, code, message)

    def _ended(self, handle: Any, code: int, message: str) -> None:
        owner = self._owners.get(handle)
        if owner is not None:
            owner.transferred(code, message)
