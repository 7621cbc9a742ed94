"""Key exchange (RFC 4253 §7 and 8): what both sides can, a secret, the host's signature under it, keys."""

from __future__ import annotations

import functools
import hashlib
import os
from collections.abc import Callable, Sequence

import msgspec
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ed25519, x25519

from dogwatch.fleet.connections.lean.packets import Cipher
from dogwatch.fleet.connections.lean.wire import (
    KEX_INIT,
    KEXINIT,
    Broken,
    Reader,
    Unusual,
    names,
    string,
    unsigned,
)

# Draft-ietf-sshm-mlkem-hybrid-kex: safe also against who keeps what was said until quantum computers are there.
_HYBRID = "mlkem768x25519-sha256"
_CURVES = ("curve25519-sha256", "curve25519-sha256@libssh.org")
_KEM_BYTES, _CURVE_BYTES = 1088, 32
_STRICT, _STRICT_THERE = "kex-strict-c-v00@openssh.com", "kex-strict-s-v00@openssh.com"
_CIPHERS = {"aes128-gcm@openssh.com": 16, "aes256-gcm@openssh.com": 32}
# AES-GCM has none of its own, but the list may not be empty.
_MACS = ("hmac-sha2-256-etm@openssh.com", "hmac-sha2-256")
_COOKIE_BYTES = 16
# Host keys by what known_hosts calls them, and the signatures that they are asked for.
SIGNATURES = {
    "ssh-ed25519": ("ssh-ed25519",),
    "ecdsa-sha2-nistp256": ("ecdsa-sha2-nistp256",),
    "ecdsa-sha2-nistp384": ("ecdsa-sha2-nistp384",),
    "ecdsa-sha2-nistp521": ("ecdsa-sha2-nistp521",),
    "ssh-rsa": ("rsa-sha2-512", "rsa-sha2-256"),
}


class Keys(msgspec.Struct, frozen=True):
    """What an exchange ends with. hash: of the exchange; the first one is the session's id."""

    hash: bytes
    outgoing: Cipher
    incoming: Cipher


class Exchange:
    """One exchange. kinds: of host keys that are asked for, in their order. trust: is given the host's key, and raises.

    version: our first line; the other side's is given when it is known. first: it is the first of its connection.
    """

    def __init__(self, version: bytes, kinds: Sequence[str], trust: Callable[[bytes], None], *, first: bool) -> None:
        self._version = version
        self._trust = trust
        self._first = first
        self._signatures = [one for kind in kinds for one in SIGNATURES[kind]]
        self._inits: tuple[bytes, bytes] = (b"", b"")
        self._public = b""
        self._curve: x25519.X25519PrivateKey | None = None
        self._kem: object | None = None
        self._signature = ""
        self._sizes = (16, 16)
        self.strict = False
        # The other side guessed wrong what would be agreed on, and has sent a message under that guess.
        self.skip_next = False

    def begin(self) -> bytes:
        """Return our KEXINIT."""
        extra = (_STRICT, "ext-info-c") if self._first else ()
        ciphers, macs = names(*_CIPHERS), names(*_MACS)
        message = b"".join(
            (
                bytes((KEXINIT,)),
                os.urandom(_COOKIE_BYTES),
                names(*_kinds_of_exchange(), *extra),
                names(*self._signatures),
                ciphers,
                ciphers,
                macs,
                macs,
                names("none"),
                names("none"),
                names(),
                names(),
                b"\0" * 5,
            )
        )
        self._inits = message, b""
        return message

    def agree(self, message: bytes) -> bytes:
        """Take the other side's KEXINIT; return our half of the secret. Raises: Unusual, Broken."""
        self._inits = self._inits[0], message
        read = Reader(message)
        read.skip(_COOKIE_BYTES)
        exchanges, signatures, *ciphers = (read.names() for _ in range(4))
        _macs, _macs_back, packings, packings_back = (read.names() for _ in range(4))
        read.names(), read.names()
        guessed = read.boolean()
        if "none" not in packings or "none" not in packings_back:
            raise Unusual("it does not do without compression")
        kind = _chosen(_kinds_of_exchange(), exchanges)
        self._signature = _chosen(self._signatures, signatures)
        self._sizes = _CIPHERS[_chosen(tuple(_CIPHERS), ciphers[0])], _CIPHERS[_chosen(tuple(_CIPHERS), ciphers[1])]
        self.strict = self._first and _STRICT_THERE in exchanges
        self.skip_next = guessed and (exchanges[0] != kind or signatures[0] != self._signature)
        self._curve = x25519.X25519PrivateKey.generate()
        self._public = self._curve.public_key().public_bytes_raw()
        if kind == _HYBRID:
            from cryptography.hazmat.primitives.asymmetric import mlkem

            kem = mlkem.MLKEM768PrivateKey.generate()
            self._kem = kem
            self._public = kem.public_key().public_bytes_raw() + self._public
        return bytes((KEX_INIT,)) + string(self._public)

    def finish(self, message: bytes, version_there: bytes, session_id: bytes) -> Keys:
        """Take the other side's half, its key and its signature; return the keys. Raises: Broken, what trust raises."""
        read = Reader(message)
        host_key, theirs, signature = read.string(), read.string(), read.string()
        secret = self._secret(theirs)
        ours, both = self._inits
        digest = hashlib.sha256(
            b"".join(
                (
                    string(self._version),
                    string(version_there),
                    string(ours),
                    string(both),
                    string(host_key),
                    string(self._public),
                    string(theirs),
                    secret,
                )
            )
        ).digest()
        # First that it has the key at all: a key that is trusted at first sight is written down.
        verify(host_key, self._signature, signature, digest)
        self._trust(host_key)
        session_id = session_id or digest

        def derived(letter: bytes, size: int) -> bytes:
            return hashlib.sha256(secret + digest + letter + session_id).digest()[:size]

        return Keys(
            digest,
            Cipher(derived(b"C", self._sizes[0]), derived(b"A", 12)),
            Cipher(derived(b"D", self._sizes[1]), derived(b"B", 12)),
        )

    def _secret(self, theirs: bytes) -> bytes:
        """Return the shared secret as it is hashed."""
        assert self._curve is not None
        kem_part, curve_part = theirs[:-_CURVE_BYTES], theirs[-_CURVE_BYTES:]
        if len(kem_part) != (_KEM_BYTES if self._kem else 0) or len(curve_part) != _CURVE_BYTES:
            raise Broken("its half of the secret has no possible length")
        try:
            # A point of small order, which would give away the secret, is refused there.
            shared = self._curve.exchange(x25519.X25519PublicKey.from_public_bytes(curve_part))
            if self._kem is None:
                return unsigned(shared)
            return string(hashlib.sha256(self._kem.decapsulate(kem_part) + shared).digest())  # type: ignore[attr-defined]
        except ValueError:
            raise Broken("its half of the secret is none") from None


def verify(host_key: bytes, kind: str, signature: bytes, data: bytes) -> None:
    """Return if the key signed the data so. kind: of the signature, as agreed on. Raises: Broken."""
    read = Reader(signature, 0)
    named, proof = read.text(), read.string()
    key = Reader(host_key, 0)
    if named != kind or kind not in SIGNATURES.get(key.text(), ()):
        raise Broken("the host key's signature is of another kind than agreed on")
    try:
        if kind == "ssh-ed25519":
            ed25519.Ed25519PublicKey.from_public_bytes(key.string()).verify(proof, data)
        elif kind.startswith("ecdsa-"):
            _verify_ecdsa(key, kind, proof, data)
        else:
            _verify_rsa(key, kind, proof, data)
    except (InvalidSignature, UnsupportedAlgorithm, ValueError):
        raise Broken("the host key's signature is wrong") from None


def _verify_ecdsa(key: Reader, kind: str, proof: bytes, data: bytes) -> None:
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

    curves: dict[str, tuple[ec.EllipticCurve, hashes.HashAlgorithm]] = {
        "nistp256": (ec.SECP256R1(), hashes.SHA256()),
        "nistp384": (ec.SECP384R1(), hashes.SHA384()),
        "nistp521": (ec.SECP521R1(), hashes.SHA512()),
    }
    name = key.text()
    if name != kind.removeprefix("ecdsa-sha2-"):
        raise Broken("the host key is of another curve than it says")
    curve, digest = curves[name]
    public = ec.EllipticCurvePublicKey.from_encoded_point(curve, key.string())
    numbers = Reader(proof, 0)
    public.verify(encode_dss_signature(numbers.mpint(), numbers.mpint()), data, ec.ECDSA(digest))


def _verify_rsa(key: Reader, kind: str, proof: bytes, data: bytes) -> None:
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import padding, rsa

    exponent, modulus = key.mpint(), key.mpint()
    public = rsa.RSAPublicNumbers(exponent, modulus).public_key()
    digest: hashes.HashAlgorithm = hashes.SHA512() if kind == "rsa-sha2-512" else hashes.SHA256()
    public.verify(proof.rjust(public.key_size // 8, b"\0"), data, padding.PKCS1v15(), digest)


def _kinds_of_exchange() -> tuple[str, ...]:
    return (_HYBRID, *_CURVES) if _has_kem() else _CURVES


@functools.cache
def _has_kem() -> bool:
    from cryptography.hazmat.backends.openssl import backend

    return bool(getattr(backend, "mlkem_supported", bool)())


def _chosen(ours: Sequence[str], theirs: Sequence[str]) -> str:
    """Return the first of ours that the other side has. Raises: Unusual."""
    for name in ours:
        if name in theirs:
            return name
    raise Unusual(f"it has none of {', '.join(ours)}")
