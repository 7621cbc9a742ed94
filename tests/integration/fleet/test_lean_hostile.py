"""The lean lane of SSH with somebody in between, and with a server that says what it should not."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import msgspec
import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from hypothesis import given
from hypothesis import strategies as st

from dogwatch.fleet.connection import HostFailed, RemoteCommand, State
from dogwatch.fleet.connections.configured import Configuration
from dogwatch.fleet.connections.lean.dialer import LeanDialer
from dogwatch.fleet.connections.lean.exchange import Exchange, verify
from dogwatch.fleet.connections.lean.packets import Sealer
from dogwatch.fleet.connections.lean.wire import IGNORE, KEXINIT, Broken, Unusual, mpint, names, string
from dogwatch.fleet.connections.ssh import SshOptions
from dogwatch.fleet.login import Login

Change = Callable[[bytes, int], bytes]


@contextlib.asynccontextmanager
async def between(port: int, change: Change) -> AsyncIterator[int]:
    """A relay that changes what the server says. change: is given a piece and how much came before it."""
    tasks: set[asyncio.Task[None]] = set()

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, changed: Change) -> None:
        before = 0
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                writer.write(changed(data, before))
                before += len(data)
            writer.write_eof()

    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there_reader, there_writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            await asyncio.gather(
                pump(reader, there_writer, lambda data, _before: data), pump(there_reader, writer, change)
            )
        finally:
            for one in (there_writer, writer):
                one.transport.abort()

    def meet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.get_running_loop().create_task(relay(reader, writer))
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    server = await asyncio.start_server(meet, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for task in list(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class Lane(LeanDialer):
    """Takes logins without any configuration."""

    async def go(self, login: Login) -> object:
        settings = Configuration(()).of(login.address, user=login.user, port=login.port)
        return await self.open(login, settings)


def lane(known_hosts: Path, timeout_s: float) -> Lane:
    return Lane(SshOptions(known_hosts=(str(known_hosts),), connect_timeout_s=timeout_s), {})


@pytest.fixture
def known(server: object, tmp_path: Path) -> Callable[[int], Path]:
    def write(port: int) -> Path:
        path = tmp_path / f"known_{port}"
        key = server.known_line().split(" ", 1)[1]  # type: ignore[attr-defined]
        path.write_text(f"[127.0.0.1]:{port} {key}")
        return path

    return write


async def outcome(login: Login, port: int, known: Callable[[int], Path], timeout_s: float = 15.0) -> str:
    """Return how a login and a command ended; anything but an answer or HostFailed fails the test."""
    try:
        connection = await lane(known(port), timeout_s).go(msgspec.structs.replace(login, port=port))
    except HostFailed as error:
        return f"{error.state.value}: {error}"
    if connection is None:
        return "left to the other lane"
    try:
        ended = await asyncio.wait_for(connection.run(RemoteCommand(script="echo ok")), 30)
        return "ok" if ended.stdout == b"ok\n" else f"{ended.state.value}"
    except HostFailed as error:
        return f"later: {error}"
    finally:
        await connection.close()


async def test_nothing_between_changes_nothing(login: Login, known: Callable[[int], Path]) -> None:
    assert login.port is not None
    async with between(login.port, lambda data, _before: data) as port:
        assert await outcome(login, port, known) == "ok"


async def test_a_bit_changed_on_the_way_never_goes_unseen(login: Login, known: Callable[[int], Path]) -> None:
    """But for the padding of packets that nobody has signed, which says nothing."""
    assert login.port is not None
    said = bytearray()
    async with between(login.port, lambda data, _before: bytes(said.extend(data) or data)) as port:
        assert await outcome(login, port, known) == "ok"
    begin = said.index(b"\n") + 1
    kexinit = int.from_bytes(said[begin : begin + 4], "big")
    reply_at = begin + 4 + kexinit
    reply = int.from_bytes(said[reply_at : reply_at + 4], "big")
    free = {*range(reply_at - said[begin + 4], reply_at)}
    free |= {*range(reply_at + 4 + reply - said[reply_at + 4], reply_at + 4 + reply)}
    # What the server says under keys differs each time, and is sealed: a few places of it will do.
    sealed_at = reply_at + 4 + reply + 16
    places = [*range(0, begin, 5), *range(begin + 4, reply_at, 23), *range(reply_at + 4, sealed_at - 16, 17)]
    places += [sealed_at, sealed_at + 3, sealed_at + 9, sealed_at + 40]

    async def changed(place: int) -> tuple[int, str]:
        def flip(data: bytes, before: int) -> bytes:
            at = place - before
            return data[:at] + bytes((data[at] ^ 1,)) + data[at + 1 :] if 0 <= at < len(data) else data

        assert login.port is not None
        async with between(login.port, flip) as port:
            # Who waits for what a changed length has announced waits in vain.
            return place, await outcome(login, port, known, timeout_s=1.5)

    unseen = []
    for begin_at in range(0, len(places), 8):
        found = await asyncio.gather(*(changed(place) for place in places[begin_at : begin_at + 8]))
        unseen += [place for place, ended in found if ended == "ok"]
    assert set(unseen) <= free


@pytest.mark.parametrize("behind", ["version", "KEXINIT", "KEX_REPLY"])
async def test_a_packet_slipped_in_before_the_keys_ends_it(
    behind: str, login: Login, known: Callable[[int], Path]
) -> None:
    """What Terrapin (CVE-2023-48795) begins with."""
    assert login.port is not None
    slipped = Sealer().seal(bytes((IGNORE,)) + string(b""))
    heard = bytearray()
    place: list[int] = []

    def slip(data: bytes, before: int) -> bytes:
        heard.extend(data)
        at = heard.find(b"\n") + 1
        for _ in range(("version", "KEXINIT", "KEX_REPLY").index(behind)):
            if not at or len(heard) < at + 4:
                return data
            at += 4 + int.from_bytes(heard[at : at + 4], "big")
        if place or not at or len(heard) < at:
            return data
        place.append(at)
        return data[: at - before] + slipped + data[at - before :]

    async with between(login.port, slip) as port:
        ended = await outcome(login, port, known)
    assert ended.startswith(State.LOST.value), ended
    assert "the key exchange" in ended, ended


@given(st.binary(max_size=600))
def test_no_offer_is_more_than_unusual(data: bytes) -> None:
    exchange = Exchange(b"SSH-2.0-a", ("ssh-ed25519",), lambda _key: None, first=True)
    exchange.begin()
    with contextlib.suppress(Broken, Unusual):
        exchange.agree(bytes((KEXINIT,)) + data)


@given(st.binary(max_size=200), st.binary(max_size=40))
def test_no_half_of_a_secret_is_more_than_broken(reply: bytes, half: bytes) -> None:
    offer = b"".join(
        (
            bytes((KEXINIT,)), bytes(16), names("curve25519-sha256"), names("ssh-ed25519"),
            *(names("aes128-gcm@openssh.com") for _ in range(2)), *(names("hmac-sha2-256") for _ in range(2)),
            *(names("none") for _ in range(2)), *(names() for _ in range(2)), bytes(5),
        )
    )  # fmt: skip
    taken: list[bytes] = []
    for message in (b"\x1f" + reply, b"\x1f" + string(reply) + string(half) + string(reply), b"\x1f" + string(b"")):
        exchange = Exchange(b"SSH-2.0-a", ("ssh-ed25519",), taken.append, first=True)
        exchange.begin()
        exchange.agree(offer)
        with pytest.raises(Broken):
            exchange.finish(message, b"SSH-2.0-b", b"")
    assert not taken, "a key that nobody proved was taken as known"


ED, EC = ed25519.Ed25519PrivateKey.generate(), ec.generate_private_key(ec.SECP256R1())


def signed(kind: str, data: bytes) -> tuple[bytes, bytes]:
    """Return a host key and its signature under the data."""
    if kind == "ssh-ed25519":
        return string(kind.encode()) + string(ED.public_key().public_bytes_raw()), ED.sign(data)
    if kind == "ecdsa-sha2-nistp256":
        numbers = EC.public_key().public_numbers()
        point = b"\x04" + numbers.x.to_bytes(32, "big") + numbers.y.to_bytes(32, "big")
        first, second = decode_dss_signature(EC.sign(data, ec.ECDSA(hashes.SHA256())))
        return string(kind.encode()) + string(b"nistp256") + string(point), mpint(first) + mpint(second)
    key = rsa.generate_private_key(65537, 2048)
    public = key.public_key().public_numbers()
    digest: hashes.HashAlgorithm = hashes.SHA512() if kind == "rsa-sha2-512" else hashes.SHA256()
    return string(b"ssh-rsa") + mpint(public.e) + mpint(public.n), key.sign(data, padding.PKCS1v15(), digest)


@pytest.mark.parametrize("kind", ["ssh-ed25519", "ecdsa-sha2-nistp256", "rsa-sha2-512", "rsa-sha2-256"])
def test_only_the_agreed_signature_under_the_very_data_counts(kind: str) -> None:
    key, proof = signed(kind, b"data")
    whole = string(kind.encode()) + string(proof)
    verify(key, kind, whole, b"data")
    other = string(kind.encode()) + string(proof[:-1] + bytes((proof[-1] ^ 1,)))
    elsewhere = "ssh-ed25519" if kind != "ssh-ed25519" else "rsa-sha2-512"
    for blob, agreed, signature, data in (
        (key, kind, whole, b"Data"),
        (key, kind, other, b"data"),
        (key, kind, string(b"ssh-rsa") + string(proof), b"data"),
        (key, elsewhere, whole, b"data"),
        (key, kind, whole[:-3], b"data"),
        (key[:-3], kind, whole, b"data"),
        (key, kind, string(kind.encode()) + string(b""), b"data"),
        (string(b"ssh-dss") + key, kind, whole, b"data"),
    ):
        with pytest.raises(Broken):
            verify(blob, agreed, signature, data)
