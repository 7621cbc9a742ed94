"""Private keys that log in (RFC 4252 §7): read once, asked for a signature by each connection."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Awaitable, Callable
from pathlib import Path

import msgspec
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from dogwatch.fleet.connections.lean.wire import Broken, Reader, mpint, string

_RSA_KINDS = ("rsa-sha2-512", "rsa-sha2-256")
_CERTIFICATE = "-cert-v01@openssh.com"
_KEY_BYTES = 1 << 20
_BEGIN, _END = b"-----BEGIN OPENSSH PRIVATE KEY-----", b"-----END OPENSSH PRIVATE KEY-----"
_MAGIC = b"openssh-key-v1\0"


class Signer(msgspec.Struct, frozen=True):
    """A key. kinds: that it logs in by, the best first. blob: its public half, or its certificate.

    sign: (kind, data) to a proof, for keys that are here. ask: the same to a whole signature, for those that others
    keep, who may ask a person; None is a refusal.
    """

    kinds: tuple[str, ...]
    blob: bytes
    sign: Callable[[str, bytes], bytes] | None = None
    ask: Callable[[str, bytes], Awaitable[bytes | None]] | None = None


class Identity(msgspec.Struct, frozen=True):
    """What a file has. blob: the public half of its key; b"" where nothing is known of it.

    usable: False for what only the general lane can use, or can say what is wrong with it.
    """

    signers: tuple[Signer, ...] = ()
    blob: bytes = b""
    usable: bool = True
    there: bool = True


def signature_of(kind: str) -> str:
    """Return what signatures by such a key are called."""
    return kind.removesuffix(_CERTIFICATE)


def kinds_of(blob: bytes) -> tuple[str, ...]:
    """Return what a public half, or a certificate, may log in as."""
    try:
        kind = Reader(blob, 0).text()
    except Broken:
        return ()
    if signature_of(kind) == "ssh-rsa":
        return tuple(one + kind.removeprefix("ssh-rsa") for one in _RSA_KINDS)
    return (kind,)


def read_identity(path: Path) -> Identity:
    """Return the key of a file, with its certificate beside it: `NAME-cert.pub`."""
    try:
        with path.open("rb") as file:
            data = file.read(_KEY_BYTES)
    except FileNotFoundError:
        return Identity(there=False)
    except OSError:
        return Identity(usable=False)
    if b"PRIVATE KEY" not in data:
        blob = _public(data)
        return Identity(blob=blob, usable=bool(blob))
    try:
        certificate = _certificate(path)
        signer = _private(data)
    except _Encrypted:
        blob = _public_of_sealed(data) or _public_beside(path)
        return Identity(blob=blob, usable=bool(blob))
    except (OSError, ValueError, TypeError, UnsupportedAlgorithm):
        return Identity(usable=False)
    if signer is None or data.count(b"-----BEGIN ") > 1:
        return Identity(usable=False)
    if certificate:
        return _certified(signer, certificate)
    return Identity((signer,), signer.blob)


class _Encrypted(Exception):
    pass


def _private(data: bytes) -> Signer | None:
    load = serialization.load_ssh_private_key if _BEGIN in data else serialization.load_pem_private_key
    try:
        key = load(data, None)
    except TypeError:
        raise _Encrypted from None
    except ValueError as error:
        # Older releases of the library say so in this way.
        if "password" in str(error).lower() or "encrypted" in str(error).lower():
            raise _Encrypted from None
        raise
    if isinstance(key, ed25519.Ed25519PrivateKey):
        return _ed25519(key)
    if isinstance(key, ec.EllipticCurvePrivateKey):
        return _ecdsa(key)
    if isinstance(key, rsa.RSAPrivateKey):
        return _rsa(key)
    return None


def _public(data: bytes) -> bytes:
    """Return the public half of a line `ssh-ed25519 AAAA… comment`."""
    words = data.split(None, 2)
    try:
        blob = base64.b64decode(words[1], validate=True) if len(words) > 1 else b""
        return blob if blob and Reader(blob, 0).string() == words[0] else b""
    except (binascii.Error, ValueError, Broken):
        return b""


def _public_beside(path: Path) -> bytes:
    try:
        return _public(Path(f"{path}.pub").read_bytes())
    except OSError:
        return b""


def _public_of_sealed(data: bytes) -> bytes:
    """Return the public half that OpenSSH's format has in clear beside the sealed one."""
    try:
        body = base64.b64decode(data.split(_BEGIN, 1)[1].split(_END, 1)[0])
        if not body.startswith(_MAGIC):
            return b""
        read = Reader(body, len(_MAGIC))
        for _ in range(3):
            read.string()
        return read.string() if read.uint32() == 1 else b""
    except (IndexError, binascii.Error, ValueError, Broken):
        return b""


def _certificate(path: Path) -> bytes:
    try:
        data = Path(f"{path}-cert.pub").read_bytes()
    except FileNotFoundError:
        return b""
    blob = _public(data)
    if not blob:
        raise ValueError("no certificate")
    return blob


def _certified(signer: Signer, blob: bytes) -> Identity:
    """Return a key that logs in by its certificate, and where that is not taken by itself."""
    try:
        read = Reader(blob, 0)
        kind = read.text()
        read.string()  # what makes it the only one of its kind
        public = read.rest
        plain = Reader(signer.blob, 0)
        name = plain.text()
    except Broken:
        return Identity(usable=False)
    if kind != name + _CERTIFICATE or not public.startswith(plain.rest):
        return Identity(usable=False)
    return Identity((Signer(kinds_of(blob), blob, signer.sign), signer), signer.blob)


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
