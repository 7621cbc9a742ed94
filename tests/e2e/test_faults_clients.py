"""Clients that do the worst they can to the daemon's own server: others are still answered, nothing is left."""

from __future__ import annotations

import contextlib
import http.client
import resource
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.e2e.faulty import Flipping, Peers, descriptors, metrics, resident_mib, summed, tasks, threads
from tests.e2e.running import Daemon, wait_until

# Short limits, so that the test need not wait for the usual 20 s.
CONFIG = """
self_watch: {every: 500ms, growth_window: 1m}
server: {connections: 200, request_timeout: 2s, keep_alive: 2s}
probes:
  - {name: beat, heartbeat: {period: 1h, grace: 1h}}
  - {name: steady, http: 'http://127.0.0.1:%d/steady', every: 300ms, timeout: 300ms, successes: 1, failures: 5}
"""


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    with Peers() as peers:
        daemon = Daemon(tmp_path, CONFIG % peers.protocol(Flipping()))
        try:
            daemon.start()
            yield daemon
        finally:
            daemon.close()


class State:
    """What the daemon holds; `back` waits until it is that again."""

    def __init__(self, daemon: Daemon) -> None:
        self.daemon = daemon
        self.descriptors = self._settled()
        self.tasks = tasks(daemon)
        self.threads = threads(daemon.pid)
        self.mib = resident_mib(daemon.pid)
        self.asked = self._asked()

    def _settled(self) -> int:
        """The store's and the page's first use open things once."""
        for path in ("/", "/api/v1/status", "/metrics", "/api/v1/targets/steady/results"):
            assert self.daemon.request("GET", path)[0] == 200
        time.sleep(0.7)
        return descriptors(self.daemon.pid)

    def _asked(self) -> float:
        return summed(metrics(self.daemon), "dogwatch_probe_results_total", 'target="steady"', 'result="success"')

    def back(self, *, mib: float = 40.0) -> None:
        daemon = self.daemon
        wait_until(lambda: daemon.request("GET", "/healthz")[0] == 200, what="an answer")
        wait_until(lambda: descriptors(daemon.pid) <= self.descriptors + 6, what="descriptors back")
        wait_until(lambda: tasks(daemon) <= self.tasks + 6, what="tasks back")
        assert threads(daemon.pid) <= self.threads + 6
        assert resident_mib(daemon.pid) - self.mib < mib
        wait_until(lambda: self._asked() > self.asked, what="watching")
        assert "Traceback" not in daemon.output(), daemon.output()[-3000:]
        assert daemon.stop() == 143


def healthy(daemon: Daemon, timeout_s: float = 10.0) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", daemon.port, timeout=timeout_s)
    try:
        connection.request("GET", "/healthz")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


@contextlib.contextmanager
def connected(daemon: Daemon, count: int) -> Iterator[list[socket.socket]]:
    with contextlib.ExitStack() as open_ones:
        made = []
        for _ in range(count):
            one = socket.create_connection(("127.0.0.1", daemon.port), timeout=30)
            open_ones.callback(one.close)
            made.append(one)
        yield made


def send(one: socket.socket, data: bytes) -> bool:
    try:
        one.sendall(data)
    except OSError:
        return False
    return True


def test_slow_loris_is_cut_off_and_others_are_answered(daemon: Daemon) -> None:
    state = State(daemon)
    with connected(daemon, 300) as ours:
        for one in ours:
            send(one, b"GET / HTTP/1.1\r\nHost: localhost\r\n")
        # A header line each 0.3 s: never idle, never done.
        stop = threading.Event()

        def drip() -> None:
            while not stop.wait(0.3):
                for one in ours:
                    send(one, b"X-More: 1\r\n")

        dripping = threading.Thread(target=drip)
        dripping.start()
        try:
            wait_until(lambda: healthy(daemon), within_s=60, what="an answer to another client")
            # And it stays so: whoever drips is cut off for good.
            for _ in range(10):
                wait_until(lambda: healthy(daemon), within_s=20)
                time.sleep(0.1)
        finally:
            stop.set()
            dripping.join()
    state.back()


def test_connections_that_say_nothing(daemon: Daemon) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < 2000:
        pytest.skip(f"1,000 connections need more than the {hard} descriptors that are allowed")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 2000), hard))
    try:
        state = State(daemon)
        with connected(daemon, 1000):
            wait_until(lambda: healthy(daemon), within_s=60, what="an answer to another client")
            assert healthy(daemon)
        state.back()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_more_requests_at_once_than_connections_are_allowed(daemon: Daemon) -> None:
    state = State(daemon)
    answers: Counter[str] = Counter()
    with connected(daemon, 400) as ours:
        for one in ours:
            send(one, b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        for one in ours:
            try:
                answers[one.recv(64).split(b"\r\n")[0].decode()] += 1
            except OSError as error:
                answers[type(error).__name__] += 1
    assert answers["HTTP/1.1 200 OK"] > 0, answers
    assert set(answers) <= {"HTTP/1.1 200 OK", "HTTP/1.1 503 Service Unavailable"}, answers
    state.back()


def exchange(daemon: Daemon, head: bytes, more: Callable[[], Iterator[bytes]]) -> tuple[bytes, int]:
    """Send a head and pieces until there are no more, or nobody takes them; return the answer and how much went."""
    with socket.create_connection(("127.0.0.1", daemon.port), timeout=10) as one:
        sent = 0
        if send(one, head):
            for piece in more():
                if not send(one, piece):
                    break
                sent += len(piece)
        answer = b""
        with contextlib.suppress(OSError):
            while len(answer) < 65536 and (data := one.recv(4096)):
                answer += data
        return answer, sent


def endless(piece: bytes, most: int) -> Callable[[], Iterator[bytes]]:
    def pieces() -> Iterator[bytes]:
        for _ in range(most // len(piece)):
            yield piece

    return pieces


@pytest.mark.parametrize(
    ("name", "head", "piece", "most", "statuses"),
    [
        ("many headers", b"GET / HTTP/1.1\r\nHost: localhost\r\n", b"X-More: more\r\n" * 100, 10_000_000, (400, 431)),
        ("one long header", b"GET / HTTP/1.1\r\nHost: localhost\r\nX-More: ", b"x" * 4096, 10_000_000, (400, 431)),
        ("a long request line", b"GET /", b"x" * 4096, 10_000_000, (400, 414, 431)),
        (
            "a huge body of a ping",
            b"POST /ping/beat HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100000000\r\n\r\n",
            b"x" * 65536,
            100_000_000,
            (413,),
        ),
        (
            "an endless chunked body of a ping",
            b"POST /ping/beat HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n",
            b"10000\r\n" + b"x" * 65536 + b"\r\n",
            100_000_000,
            (413,),
        ),
        (
            "endless tiny chunks",
            b"POST /ping/beat HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n",
            b"1\r\nx\r\n" * 1000,
            20_000_000,
            (400, 408, 413),
        ),
        ("garbage", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", bytes(range(256)), 10_000, (400,)),
    ],
)
def test_too_much(daemon: Daemon, name: str, head: bytes, piece: bytes, most: int, statuses: tuple[int, ...]) -> None:
    state = State(daemon)
    found: list[tuple[bytes, int]] = []
    workers = [
        threading.Thread(target=lambda: found.append(exchange(daemon, head, endless(piece, most)))) for _ in range(8)
    ]
    for worker in workers:
        worker.start()
    slowest_s = 0.0
    while any(worker.is_alive() for worker in workers):
        started_s = time.monotonic()
        assert healthy(daemon, 5.0)
        slowest_s = max(slowest_s, time.monotonic() - started_s)
        time.sleep(0.02)
    for worker in workers:
        worker.join()
    for answer, sent in found:
        # A reset may overtake the answer; not that all of it was taken.
        assert not answer or answer.startswith(tuple(b"HTTP/1.1 %d" % status for status in statuses)), answer[:200]
        assert sent < most or most <= 10_000, "all of it was taken"
    assert any(answer for answer, _sent in found) or name.startswith(("a huge", "an endless", "endless")), (
        "nobody was told why"
    )
    assert slowest_s < 5.0  # not how quickly a busy machine answers, but that it answers
    state.back()


def test_half_closed_and_abandoned_connections(daemon: Daemon) -> None:
    state = State(daemon)
    for number in range(150):
        with socket.create_connection(("127.0.0.1", daemon.port), timeout=30) as one:
            path = ("/", "/metrics", "/api/v1/targets?limit=500", "/api/v1/events")[number % 4]
            if number % 3 == 0:
                send(one, f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
                one.shutdown(socket.SHUT_WR)
                if path != "/api/v1/events":
                    assert one.recv(16).startswith((b"HTTP/1.1 200", b"")), path
            elif number % 3 == 1:
                send(one, f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())  # and away
            else:
                send(one, b"POST /ping/beat HTTP/1.1\r\nHost: localhost\r\nContent-Length: 50\r\n\r\nhalf")
    assert healthy(daemon)
    with connected(daemon, 50) as ours:
        for one in ours:
            send(one, b"POST /ping/beat HTTP/1.1\r\nHost: localhost\r\nContent-Length: 50\r\n\r\nhalf")
            one.shutdown(socket.SHUT_WR)
        assert healthy(daemon)
    state.back()


def test_streams_that_nobody_reads(daemon: Daemon) -> None:
    """Live streams whose clients do not read are bounded: what they miss is dropped and counted."""
    state = State(daemon)
    own = summed(metrics(daemon), "dogwatch_gauge", 'name="live_subscribers"')
    with contextlib.ExitStack() as open_ones:
        for _ in range(70):
            one = socket.socket()
            open_ones.callback(one.close)
            one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
            one.connect(("127.0.0.1", daemon.port))
            one.sendall(b"GET /api/v1/events HTTP/1.1\r\nHost: localhost\r\n\r\n")
        time.sleep(3.0)
        assert healthy(daemon)
        found = metrics(daemon)
        assert summed(found, "dogwatch_gauge", 'name="live_subscribers"') <= 64 + own
        assert resident_mib(daemon.pid) - state.mib < 40
    state.back()
