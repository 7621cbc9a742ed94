"""The floor for bench/http_probes.py: a bare epoll loop in Python that connects, sends, receives and closes.

It parses nothing, times nothing, has no deadlines and keeps nothing; what it costs is the kernel's part of a probe and
what Python cannot do without. No engine in Python can be below it.
"""

from __future__ import annotations

import select
import socket
from urllib.parse import urlsplit

_STREAM = socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
_EVENTS = select.EPOLLIN | select.EPOLLRDHUP | select.EPOLLET


class BareLoad:
    """Keeps `workers` requests in flight until `count` are answered. Only for http:// on this machine."""

    def __init__(self, url: str, *, keep_alive: bool) -> None:
        place = urlsplit(url)
        self.address = place.hostname, place.port
        self.keep_alive = keep_alive
        lines = ["GET / HTTP/1.1", f"Host: {place.netloc}", "User-Agent: bare", "Accept: */*"]
        lines += [] if keep_alive else ["Connection: close"]
        self.request = "\r\n".join([*lines, "", ""]).encode()
        self.failed = 0
        self._epoll = select.epoll()
        self._table: dict[int, socket.SocketType] = {}
        self._buffer = bytearray(64 * 1024)

    def _connect(self) -> None:
        sock = socket.SocketType(socket.AF_INET, _STREAM, 0)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 0)
        sock.connect_ex(self.address)
        sock.send(self.request)
        fd = sock.fileno()
        self._table[fd] = sock
        self._epoll.register(fd, _EVENTS)

    async def run(self, count: int, workers: int) -> None:
        """Block the loop until all are answered."""
        table, buffer = self._table, self._buffer
        left, answered = count - min(count, workers), 0
        for _ in range(min(count, workers)):
            self._connect()
        while answered < count:
            closing = []
            for fd, _ in self._epoll.poll(-1, 256):
                sock = table[fd]
                try:
                    size = sock.recv_into(buffer)
                except BlockingIOError:
                    continue
                answered += 1
                self.failed += b"200 OK" not in buffer[:size]
                if self.keep_alive and left:
                    left -= 1
                    sock.send(self.request)
                    continue
                closing.append(table.pop(fd))
                if left:
                    left -= 1
                    self._connect()
            for sock in closing:
                sock.close()
