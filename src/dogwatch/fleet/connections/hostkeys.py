"""known_hosts: which keys are vouched for, and what becomes of one that none is.

The general lane has asyncssh's reader of the same files. This one takes a line only if it understands it as that does;
where it meets anything else it says so, and the general lane reads the file.
"""

from __future__ import annotations

import base64
import binascii
import fnmatch
import hashlib
import hmac
import ipaddress
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec


class NotUnderstood(Exception):
    """The file has something that only the general lane reads."""


class _Line(msgspec.Struct, frozen=True):
    """One key. marker: "", cert-authority or revoked."""

    marker: str
    kind: str
    text: str

    @property
    def blob(self) -> bytes:
        try:
            return base64.b64decode(self.text, validate=True)
        except (binascii.Error, ValueError):
            return b""


class Known(msgspec.Struct, frozen=True):
    """What is known of a host. trusted, revoked: keys as they are sent. authorities: whether certificates are asked."""

    trusted: dict[bytes, str]
    revoked: frozenset[bytes]
    authorities: bool

    @property
    def something(self) -> bool:
        return bool(self.trusted or self.revoked or self.authorities)


class KnownHosts:
    """Files of known hosts, read once. Raises: NotUnderstood, OSError."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self._exact: dict[str, list[_Line]] = {}
        self._hashed: list[tuple[bytes, bytes, _Line]] = []
        self._patterns: list[tuple[list[str], list[str], _Line]] = []
        for path in paths:
            try:
                text = path.read_text()
            except UnicodeDecodeError:
                raise NotUnderstood(f"{path} is no text") from None
            for line in text.splitlines():
                self._read(line.strip())

    def _read(self, line: str) -> None:
        if not line or line.startswith("#"):
            return
        words = line.split(None, 4 if line.startswith("@") else 3)
        marker = words.pop(0)[1:] if line.startswith("@") else ""
        if len(words) < 3 or marker not in ("", "cert-authority", "revoked") or words[1].startswith("x509"):
            raise NotUnderstood(line[:80])
        hosts, entry = words[0], _Line(marker, words[1], words[2])
        if hosts.startswith("|"):
            self._hashed.append((*_hash(hosts), entry))
        elif any(char in hosts for char in "*?!/|"):
            self._add_patterns(hosts, entry)
        else:
            for host in hosts.split(","):
                self._exact.setdefault(host, []).append(entry)

    def _add_patterns(self, hosts: str, entry: _Line) -> None:
        wanted: list[str] = []
        unwanted: list[str] = []
        for one in hosts.split(","):
            pattern = one.removeprefix("!")
            if "/" in pattern or "|" in pattern or _is_address(pattern):
                raise NotUnderstood(hosts[:80])
            # A bracket is itself there, and begins a set here.
            pattern = pattern.replace("[", "\0").replace("]", "[]]").replace("\0", "[[]")
            (unwanted if one.startswith("!") else wanted).append(pattern)
        self._patterns.append((wanted, unwanted, entry))

    def match(self, host: str, address: str, port: int | None) -> Known:
        """Return what is known of a host by its name or address; port: None for 22.

        A host on a port of its own that is not there is looked for without the port.
        """
        if port:
            found = self._match(f"[{host}]:{port}" if host else "", f"[{address}]:{port}" if address else "")
            if any(one.marker != "revoked" and one.blob for one in found):
                return _known(found)
        return _known(self._match(host, address))

    def _match(self, host: str, address: str) -> list[_Line]:
        found = [*self._exact.get(host, ())]
        if address != host:
            found += self._exact.get(address, ())
        names = [name for name in (host, address) if name]
        for salt, digest, entry in self._hashed:
            if any(hmac.digest(salt, name.encode(), "sha1") == digest for name in names):
                found.append(entry)
        for wanted, unwanted, entry in self._patterns:
            if _fits(names, wanted) and not _fits(names, unwanted):
                found.append(entry)
        return found


def _known(lines: Sequence[_Line]) -> Known:
    trusted: dict[bytes, str] = {}
    revoked: set[bytes] = set()
    authorities = False
    for line in lines:
        blob = line.blob
        if not blob:
            continue
        if line.marker == "revoked":
            revoked.add(blob)
        elif line.marker:
            authorities = True
        else:
            trusted[blob] = line.kind
    return Known(trusted, frozenset(revoked), authorities)


def _hash(text: str) -> tuple[bytes, bytes]:
    try:
        magic, salt, digest = text[1:].split("|")
        if magic == "1":
            return base64.b64decode(salt), base64.b64decode(digest)
    except (binascii.Error, ValueError):
        pass
    raise NotUnderstood(text[:80])


def _fits(names: Sequence[str], patterns: Sequence[str]) -> bool:
    return any(fnmatch.fnmatch(name, pattern) for name in names for pattern in patterns)


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_network(text)
    except ValueError:
        return False
    return True


def fingerprint(blob: bytes) -> str:
    return "SHA256:" + base64.b64encode(hashlib.sha256(blob).digest()).decode().rstrip("=")


class Refused(Exception):
    """A host's key is not to be trusted. known: known_hosts has something else of it."""

    def __init__(self, told: str, *, known: bool) -> None:
        super().__init__(told)
        self.known = known


class Judge(msgspec.Struct):
    """Decides about a host's key. name: as known_hosts writes it. taken: since the files were read, by name.

    keep: is given the key of a host that is taken without being known.
    """

    known_hosts: KnownHosts
    host: str
    port: int | None
    name: str
    accept: bool
    taken: dict[str, str]
    keep: Callable[[str], None]
    there: Known = Known({}, frozenset(), False)

    def meet(self, address: str) -> Known:
        """Return what is known of the host, now that its address is known, too."""
        self.there = self.known_hosts.match(self.host, address, None if self.port in (None, 22) else self.port)
        return self.there

    def take(self, blob: bytes) -> None:
        """Return if the key is to be trusted. Raises: Refused."""
        told = fingerprint(blob)
        if blob in self.there.revoked:
            raise Refused("the key is revoked", known=True)
        if blob in self.there.trusted:
            return
        before = self.taken.get(self.name)
        if before == told:
            return
        known = self.there.something or self.known_hosts.match(self.host, "", self.port).something
        if known or before is not None or not self.accept:
            raise Refused(told, known=known or before is not None)
        self.taken[self.name] = told
        size = int.from_bytes(blob[:4], "big")
        self.keep(f"{blob[4 : 4 + size].decode('ascii', 'replace')} {base64.b64encode(blob).decode()}")


def append_line(file: Path, line: str) -> None:
    """Keep a host's key. One write of one line in append mode: connections to other hosts write at the same time."""
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        os.write(descriptor, line.encode())
    finally:
        os.close(descriptor)
