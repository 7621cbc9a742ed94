"""The lean lane's packets, key exchange and known_hosts, against what must not be believed."""

from __future__ import annotations

import hashlib
from pathlib import Path

import asyncssh
import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519, x25519
from hypothesis import given, settings
from hypothesis import strategies as st

from dogwatch.fleet.connections.hostkeys import Judge, KnownHosts, NotUnderstood, Refused, fingerprint
from dogwatch.fleet.connections.lean.exchange import Exchange
from dogwatch.fleet.connections.lean.packets import Cipher, Opener, Sealer
from dogwatch.fleet.connections.lean.wire import KEX_REPLY, KEXINIT, Broken, Reader, Unusual, mpint, names, string

HOST = ed25519.Ed25519PrivateKey.generate()
BLOB = string(b"ssh-ed25519") + string(HOST.public_key().public_bytes_raw())


def sealed(*messages: bytes) -> bytes:
    sealer = Sealer()
    sealer.cipher = Cipher(b"k" * 16, b"n" * 12)
    return b"".join(sealer.seal(message) for message in messages)


def opener() -> Opener:
    found = Opener()
    found.cipher = Cipher(b"k" * 16, b"n" * 12)
    return found


@given(st.lists(st.binary(min_size=1, max_size=300), max_size=6), st.integers(1, 50))
def test_packets_arrive_in_any_pieces(messages: list[bytes], step: int) -> None:
    data, there, found = sealed(*messages), opener(), []
    for at in range(0, len(data), step):
        there.feed(data[at : at + step])
        while (message := there.next()) is not None:
            found.append(message)
    assert found == messages


def test_no_changed_bit_is_believed() -> None:
    data = sealed(b"one message")
    for at in range(len(data) * 8):
        there = opener()
        changed = bytearray(data)
        changed[at // 8] ^= 1 << at % 8
        there.feed(bytes(changed) + b"\0" * 600)
        try:
            assert there.next() is None  # it says that it is longer than it is: more is waited for
        except Broken:
            continue
        assert at < 32


def test_packets_in_another_order_are_not_believed() -> None:
    first, second = sealed(b"first"), sealed(b"first", b"again")
    there = opener()
    there.feed(second[len(first) :])
    with pytest.raises(Broken):
        there.next()


@settings(max_examples=300)
@given(st.binary(max_size=400), st.booleans())
def test_garbage_is_broken_or_waited_for(data: bytes, sealed: bool) -> None:
    there = Opener()
    if sealed:
        there.cipher = Cipher(bytes(16), bytes(12))
    there.feed(data)
    try:
        while there.next() is not None:
            pass
    except Broken:
        pass


def kexinit(*, exchange: str = "curve25519-sha256", cipher: str = "aes128-gcm@openssh.com", key: str = "") -> bytes:
    both = names(cipher) * 2 + names("hmac-sha2-256") * 2 + names("none") * 2 + names() * 2
    lists = names(*exchange.split(",")) + names(key or "ssh-ed25519") + both
    return bytes((KEXINIT,)) + b"c" * 16 + lists + b"\0" * 5


def answered(begun: bytes, half: bytes, *, key: ed25519.Ed25519PrivateKey = HOST, theirs: bytes | None = None) -> bytes:
    """Return what a server with this key answers to the client's half."""
    curve = x25519.X25519PrivateKey.generate()
    public = Reader(half).string()
    theirs = curve.public_key().public_bytes_raw() if theirs is None else theirs
    secret = mpint(int.from_bytes(curve.exchange(x25519.X25519PublicKey.from_public_bytes(public)), "big"))
    parts = (b"SSH-2.0-us", b"SSH-2.0-them", begun, kexinit(), BLOB, public, theirs)
    digest = hashlib.sha256(b"".join(map(string, parts)) + secret).digest()
    proof = string(b"ssh-ed25519") + string(key.sign(digest))
    return bytes((KEX_REPLY,)) + string(BLOB) + string(theirs) + string(proof)


def begun() -> tuple[Exchange, bytes, bytes]:
    exchange = Exchange(b"SSH-2.0-us", ["ssh-ed25519"], lambda blob: None, first=True)
    first = exchange.begin()
    return exchange, first, exchange.agree(kexinit())


def test_an_exchange_ends_with_the_same_keys_for_both() -> None:
    exchange, first, half = begun()
    keys = exchange.finish(answered(first, half), b"SSH-2.0-them", b"")
    assert len(keys.hash) == 32
    assert not exchange.strict


def test_who_shows_a_key_and_does_not_have_it_is_refused() -> None:
    exchange, first, half = begun()
    with pytest.raises(Broken, match="signature is wrong"):
        exchange.finish(answered(first, half, key=ed25519.Ed25519PrivateKey.generate()), b"SSH-2.0-them", b"")


def test_what_was_agreed_on_is_under_the_signature() -> None:
    exchange, first, half = begun()
    with pytest.raises(Broken, match="signature is wrong"):
        exchange.finish(answered(first, half), b"SSH-2.0-another", b"")


@pytest.mark.parametrize("theirs", [b"\0" * 32, b"\1" + b"\0" * 31, b"x" * 31, b"", b"x" * 1120])
def test_halves_that_give_the_secret_away_are_refused(theirs: bytes) -> None:
    exchange, first, half = begun()
    with pytest.raises(Broken):
        exchange.finish(answered(first, half, theirs=theirs), b"SSH-2.0-them", b"")


def test_a_key_that_is_not_trusted_stops_it() -> None:
    def trust(blob: bytes) -> None:
        raise Refused(fingerprint(blob), known=False)

    exchange = Exchange(b"SSH-2.0-us", ["ssh-ed25519"], trust, first=True)
    first = exchange.begin()
    with pytest.raises(Refused):
        exchange.finish(answered(first, exchange.agree(kexinit())), b"SSH-2.0-them", b"")


@pytest.mark.parametrize(
    "other", [{"exchange": "diffie-hellman-group14-sha256"}, {"cipher": "aes128-ctr"}, {"key": "ssh-rsa"}]
)
def test_what_is_not_spoken_here_is_for_the_other_lane(other: dict[str, str]) -> None:
    exchange = Exchange(b"SSH-2.0-us", ["ssh-ed25519"], lambda blob: None, first=True)
    exchange.begin()
    with pytest.raises(Unusual):
        exchange.agree(kexinit(**other))


def test_a_wrong_guess_of_the_other_side_is_passed_over() -> None:
    exchange = Exchange(b"SSH-2.0-us", ["ssh-ed25519"], lambda blob: None, first=True)
    exchange.begin()
    exchange.agree(
        kexinit(exchange="ecdh-sha2-nistp256,curve25519-sha256,kex-strict-s-v00@openssh.com")[:-5] + b"\1\0\0\0\0"
    )
    assert (exchange.skip_next, exchange.strict) == (True, True)


# -- known_hosts -----------------------------------------------------------------------------------------------------

KEYS = [asyncssh.generate_private_key("ssh-ed25519").export_public_key().decode().strip() for _ in range(3)]
LINES = [
    ["web1 {0}"],
    ["web1,10.0.0.1 {0}", "web1 {1}"],
    ["[web1]:2222 {0}", "web1 {1}"],
    ["web* {0}", "@revoked web1 {1}"],
    ["web*,!web1 {0}"],
    ["[web?]:2222,db {0} a comment of words"],
    ["# web1 {0}", "", "  10.0.0.1 {2}"],
    ["*.example,web1 {0}", "@revoked * {2}"],
]


@pytest.mark.parametrize("lines", LINES)
@pytest.mark.parametrize("port", [None, 2222, 2200])
def test_known_hosts_are_read_as_asyncssh_reads_them(lines: list[str], port: int | None, tmp_path: Path) -> None:
    text = "\n".join(lines).format(*KEYS) + "\n"
    file = tmp_path / "known"
    file.write_text(text)
    ours, theirs = KnownHosts([file]), asyncssh.import_known_hosts(text)
    for host, address in (("web1", "10.0.0.1"), ("web2", ""), ("db", "10.0.0.2"), ("x.example", ""), ("10.0.0.1", "")):
        trusted, _authorities, revoked, *_rest = theirs.match(host, address, port)
        found = ours.match(host, address, port)
        assert set(found.trusted) == {key.public_data for key in trusted}, (host, address)
        assert found.revoked == {key.public_data for key in revoked}


@pytest.mark.parametrize(
    "line", ["web1", "@other web1 {0}", "10.0.0.0/8 {0}", "|2|a|b {0}", "web1 x509v3-ssh-rsa AAAA"]
)
def test_lines_that_are_not_understood_are_for_the_other_reader(line: str, tmp_path: Path) -> None:
    file = tmp_path / "known"
    file.write_text(line.format(*KEYS) + "\n")
    with pytest.raises(NotUnderstood):
        KnownHosts([file])


def test_a_key_is_taken_once_and_another_never(tmp_path: Path) -> None:
    kept: list[str] = []
    taken: dict[str, str] = {}

    def judge(*, accept: bool = True) -> Judge:
        return Judge(
            known_hosts=KnownHosts([]),
            host="web1",
            port=2222,
            name="[web1]:2222",
            accept=accept,
            taken=taken,
            keep=kept.append,
        )

    with pytest.raises(Refused) as caught:
        judge(accept=False).take(BLOB)
    assert not caught.value.known
    judge().take(BLOB)
    judge(accept=False).take(BLOB)
    other = string(b"ssh-ed25519") + string(b"x" * 32)
    with pytest.raises(Refused) as caught:
        judge().take(other)
    assert (caught.value.known, len(kept)) == (True, 1)
    assert kept[0].startswith("ssh-ed25519 AAAA")
