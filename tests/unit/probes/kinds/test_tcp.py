"""The tcp kind: dialogues, STARTTLS in every protocol, hostile peers."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import ssl
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from tests.probing import Trust, ask, free_port, new_attempt, peer

from dogwatch.probes.engine.engine import Engine
from dogwatch.probes.kinds.tcp import DialogueStep, TcpProbe
from dogwatch.probes.patterns import expand, matches, pattern
from dogwatch.probes.probe import Evidence, ProbeResult, attempt_once
from dogwatch.probes.starttls import DEFAULT_PORTS
from dogwatch.probes.stream import MAX_READ_BYTES
from dogwatch.probes.trust import TlsOptions

SCRIPTS = json.loads((Path(__file__).parents[3] / "cases" / "probes" / "starttls.json").read_text())
Reader, Writer = asyncio.StreamReader, asyncio.StreamWriter


def evidence(result: ProbeResult) -> Evidence:
    assert result.evidence is not None
    return result.evidence()


@pytest.fixture
def trust(tmp_path: Path) -> Trust:
    return Trust(tmp_path)


async def test_dialogue_passes_groups_on() -> None:
    heard: list[bytes] = []

    async def irc(reader: Reader, writer: Writer) -> None:
        writer.write(b"noise\r\nPING :abc$1\r\n")
        heard.append(await reader.readline())
        heard.append(await reader.readline())
        writer.write(b":irc 001 welcome\r\n")

    steps = (
        DialogueStep(send="NICK dog"),
        DialogueStep(expect="^PING :(?P<token>\\S+)", send="PONG ${token} $1 $$1 ${nobody}"),
        DialogueStep(expect="^:[^ ]+ 001"),
    )
    async with peer(irc) as port:
        result = await ask(TcpProbe(host="127.0.0.1", port=port, dialogue=steps, line_end="crlf"))
    assert result.success
    assert heard == [b"NICK dog\r\n", b"PONG abc$1 abc$1 $1 \r\n"]
    assert result.values["matched"] == ":irc 001 welcome"
    assert result.phases is not None
    assert result.phases.connect_s > 0
    assert result.phases.transfer_s > 0


async def test_a_dialogue_that_does_not_match_shows_what_came() -> None:
    async def wrong(_: Reader, writer: Writer) -> None:
        writer.write(b"530 go away\r\n")

    async with peer(wrong) as port:
        result = await ask(TcpProbe(host="127.0.0.1", port=port, dialogue=(DialogueStep(expect="^220"),)))
    assert (result.reason, result.values["failed_regex"]) == ("mismatch", True)
    assert "530 go away" in evidence(result).body
    assert f"127.0.0.1:{port}" in result.message


async def test_an_expression_that_would_hold_a_backtracking_engine_is_quick() -> None:
    async def hostile(_: Reader, writer: Writer) -> None:
        writer.write(b"a" * 60_000 + b"!\n")

    started = time.process_time()
    async with peer(hostile) as port:
        result = await ask(TcpProbe(host="127.0.0.1", port=port, dialogue=(DialogueStep(expect="^(a+)+$"),)))
    assert result.reason == "mismatch"
    assert time.process_time() - started < 1


@pytest.mark.parametrize(("flood", "what"), [(b"x" * 65536, "line of more"), (b"x\n" * 4096, "more than")])
async def test_a_flood_ends_within_bounds(flood: bytes, what: str) -> None:
    async def hostile(_: Reader, writer: Writer) -> None:
        while True:
            writer.write(flood)
            await writer.drain()

    async with peer(hostile) as port:
        result = await ask(TcpProbe(host="127.0.0.1", port=port, dialogue=(DialogueStep(expect="never"),)), 5.0)
    assert result.reason == "too_large"
    assert what in result.message
    assert evidence(result).truncated or len(evidence(result).body) < MAX_READ_BYTES


async def test_tls_from_the_first_byte(trust: Trust) -> None:
    async def echo(reader: Reader, writer: Writer) -> None:
        writer.write(await reader.readline())

    steps = (DialogueStep(send="hello"), DialogueStep(expect="^hello$"))
    options = TlsOptions(ca_file=trust.ca_file, server_name="localhost")
    async with peer(echo, trust.server()) as port:
        result = await ask(TcpProbe(host="127.0.0.1", port=port, tls=options, dialogue=steps))
        untrusted = await ask(TcpProbe(host="127.0.0.1", port=port, tls=True))
    assert result.success, result.message
    assert result.values["tls"] is True
    assert result.values["tls_days_left"] > 0
    assert result.values["tls_version"] == "TLS 1.3"
    assert result.phases is not None
    assert result.phases.tls_s > 0
    assert untrusted.reason == "certificate"


def _bytes(step: dict[str, Any], key: str) -> bytes:
    return bytes.fromhex(step[f"{key}_hex"]) if f"{key}_hex" in step else step.get(key, "").encode()


@contextlib.asynccontextmanager
async def scripted(
    script: list[dict[str, Any]], context: ssl.SSLContext | None, heard: list[bytes]
) -> AsyncIterator[int]:
    """Serve one connection by a script, then do the handshake.

    In a thread: it reads exactly what the script says, while asyncio's reader would swallow the handshake that a
    client sends right behind its last word.
    """

    def serve(listener: socket.socket) -> None:
        sock, _ = listener.accept()
        with sock, contextlib.suppress(OSError):
            sock.settimeout(5)
            for step in script:
                said = sock.recv(len(_bytes(step, "hear")), socket.MSG_WAITALL) if _bytes(step, "hear") else b""
                if said != _bytes(step, "hear"):
                    return
                heard.append(said)
                sock.sendall(_bytes(step, "say"))
            if context is None:
                sock.recv(1)
            else:
                with context.wrap_socket(sock, server_side=True) as secure:
                    secure.recv(1)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(5)
        serving = asyncio.create_task(asyncio.to_thread(serve, listener))
        yield listener.getsockname()[1]
        await serving


@pytest.mark.parametrize("protocol", sorted(SCRIPTS))
async def test_starttls(protocol: str, trust: Trust) -> None:
    heard: list[bytes] = []
    script = SCRIPTS[protocol]["talk"]
    async with scripted(script, trust.server(), heard) as port:
        options = TlsOptions(ca_file=trust.ca_file)
        result = await ask(TcpProbe(host="127.0.0.1", port=port, starttls=protocol, tls=options))  # type: ignore[arg-type]
    assert result.success, result.message
    assert result.values["tls"] is True
    assert len(heard) == len(script)


@pytest.mark.parametrize("protocol", sorted(SCRIPTS))
async def test_starttls_that_is_not_offered(protocol: str) -> None:
    async with scripted(SCRIPTS[protocol]["refusal"], None, []) as port:
        result = await ask(TcpProbe(host="127.0.0.1", port=port, starttls=protocol))  # type: ignore[arg-type]
    assert result.reason == "protocol", result.message
    assert "TLS" in result.message


def test_every_preset_has_a_script_and_a_port() -> None:
    assert set(SCRIPTS) == set(DEFAULT_PORTS)
    assert TcpProbe(host="mail.example", starttls="smtp").address() == "mail.example:25"


async def test_words_before_the_handshake_are_not_taken_for_protected_ones() -> None:
    """CVE-2011-0411: what is sent right behind the go-ahead must not be read after the handshake."""

    async def injected(reader: Reader, writer: Writer) -> None:
        writer.write(b"+OK hello\r\n")
        await reader.readline()
        writer.write(b"+OK go\r\n+OK injected\r\n")
        await reader.read(1)

    async with peer(injected) as port:
        result = await ask(TcpProbe(host="127.0.0.1", port=port, starttls="pop3"))
    assert result.reason == "protocol"
    assert "between" in result.message


async def test_plain_connect_needs_no_task() -> None:
    async def idle(reader: Reader, _: Writer) -> None:
        await reader.read(1)

    async with peer(idle) as port:
        result = await ask(TcpProbe(host=f"127.0.0.1:{port}", source="127.0.0.9"))
        by_name = await ask(TcpProbe(host=f"localhost:{port}", ip_version=4))
        wrong_version = await ask(TcpProbe(host=f"127.0.0.1:{port}", ip_version=6))
        wrong_source = await ask(TcpProbe(host=f"127.0.0.1:{port}", source="192.0.2.77"))
    assert result.success
    assert by_name.success
    assert result.values == {"tls": False, "ip": "127.0.0.1", "ip_version": 4}
    assert wrong_version.reason == "resolve"
    assert wrong_source.reason == "local"


async def test_refusal_is_told_with_the_address() -> None:
    port = free_port()
    for host in ("127.0.0.1", "localhost"):
        result = await ask(TcpProbe(host=host, port=port))
        assert (result.reason, result.message) == ("refused", f"cannot connect to {host}:{port}: connection refused")


async def idle(reader: Reader, _: Writer) -> None:
    await reader.read(1)


async def test_the_engines_resolver_is_asked_and_every_address_tried() -> None:
    cancelled = []

    class Resolving:
        def resolve(self, name: str, family: str, deadline_s: float, done: Any) -> Any:
            assert (name, family) == ("db.example", "auto")
            assert 0 < deadline_s - time.perf_counter() <= 2
            asyncio.get_running_loop().call_soon(done, ((2, "127.0.0.2"), (2, "127.0.0.1")), "")
            return lambda: cancelled.append(name)

    async with peer(idle) as port:
        result = await attempt_once(TcpProbe(host="db.example", port=port), new_attempt(engine=Resolving()))
    assert result.success
    assert result.values["ip"] == "127.0.0.1"
    assert cancelled == ["db.example"]


async def test_names_by_the_real_engine() -> None:
    engine = Engine()
    engine.open()
    try:
        async with peer(idle) as port:
            found = await attempt_once(TcpProbe(host=f"localhost:{port}", ip_version=4), new_attempt(engine=engine))
        probe = TcpProbe(host="no-such-host.invalid", port=1)
        missing = await attempt_once(probe, new_attempt(0.5, engine=engine))
    finally:
        engine.close()
    assert found.success, found.message
    assert missing.reason in {"resolve", "timeout"}
    assert "no-such-host.invalid" in missing.message


async def test_a_name_that_does_not_exist() -> None:
    result = await ask(TcpProbe(host="no-such-host.invalid", port=1))
    assert result.reason == "resolve"
    assert "no-such-host.invalid" in result.message


def test_expand_follows_the_peer() -> None:
    match = pattern("(?P<a>x)(y)?").search("x")
    assert expand("$1-${a}-$2-$$-$9-$a", match) == "x-x--$--x"
    assert expand("$1", None) == ""


def test_patterns_are_bounded() -> None:
    with pytest.raises(ValueError, match=r"repetition|too large"):
        pattern("((((a{30}){30}){30}b){30})")
    with pytest.raises(ValueError, match=r"."):
        pattern(r"(?=look)")
    assert matches("(?i)HELLO", b"\xff hello")
