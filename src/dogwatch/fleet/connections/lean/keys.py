"""Private keys that log in (RFC 4252 §7): read once, asked for a signature by each connection."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from dogwatch.fleet.connections.lean.wire import mpint, string

_RSA_KINDS = ("rsa-sha2-512", "rsa-sha2-256")


class Signer(msgspec.Struct, frozen=True):
    """A key. kinds: of signatures that it makes, the best first. blob: its public half. sign: (kind, data)."""

    kinds: tuple[str, ...]
    blob: bytes
    sign: Callable[[str, bytes], bytes]


def read_signer(path: Path) -> Signer | None:
    """Return the key of a file; None for what only the general lane can use, or can say what is wrong with it."""
    try:
        data = path.read_bytes()
        if Path(f"{path}-cert.pub").exists():
            return None
        load = serialization.load_ssh_private_key if b"BEGIN OPENSSH" in data else serialization.load_pem_private_key
        key = load(data, None)
    except (OSError, ValueError, TypeError, UnsupportedAlgorithm):
        return None
    if isinstance(key, ed25519.Ed25519PrivateKey):
        return _ed25519(key)
    if isinstance(key, ec.EllipticCurvePrivateKey):
        return _ecdsa(key)
    if isinstance(key, rsa.RSAPrivateKey):
        return _rsa(key)
    return None


def _ed25519(key: ed25519.Ed25519PrivateKey) -> Signer:
    blob = string(b"ssh-ed25519") + string(key.public_key().public_bytes_raw())
    return Signer(("ssh-ed25519",), blob, lambda _kind, data: key.sign(data))


def _ecdsa(key: ec.EllipticCurvePrivateKey) -> Signer | None:
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

    named = {"secp256r1": "nistp256", "secp384r1": "nistp384", "secp521r1": "nistp521"}
    digests: dict[str, hashes.HashAlgorithm] = {
        "nistp256": hashes.SHA256(),
        "nistp384": hashes.SHA384(),
        "nistp521": hashes.SHA512(),
    }
    if key.curve.name not in named:
        return None
    curve = named[key.curve.name]
    point = key.public_key().public_bytes(serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint)

    def sign(_kind: str, data: bytes) -> bytes:
        first, second = decode_dss_signature(key.sign(data, ec.ECDSA(digests[curve])))
        return mpint(first) + mpint(second)

    kind = f"ecdsa-sha2-{curve}"
    return Signer((kind,), string(kind.encode()) + string(curve.encode()) + string(point), sign)


def _rsa(key: rsa.RSAPrivateKey) -> Signer:
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import padding

    numbers = key.public_key().public_numbers()

    def sign(kind: str, data: bytes) -> bytes:
        digest: hashes.HashAlgorithm = hashes.SHA512() if kind == "rsa-sha2-512" else hashes.SHA256()
        return key.sign(data, padding.PKCS1v15(), digest)

    return Signer(_RSA_KINDS, string(b"ssh-rsa") + mpint(numbers.e) + mpint(numbers.n), sign)
