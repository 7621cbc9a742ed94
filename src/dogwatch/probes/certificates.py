"""What a probe says about X.509 certificates, read straight from DER.

Own reader, about 150 lines: the cryptography package costs 10 MB resident and 60 ms of import for the six fields that
a probe shows. It only describes; whether a certificate is trusted is for the TLS library to decide.
"""

from __future__ import annotations

import hashlib
import ipaddress
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

import msgspec

# A chain of this size does not come through a default OpenSSL either (its limit is 100 kB).
MAX_DER_BYTES = 256 * 1024
MAX_NAMES = 1000

_INTEGER, _OCTET_STRING, _OID, _SEQUENCE, _SET = 0x02, 0x04, 0x06, 0x30, 0x31
_UTC_TIME, _GENERALIZED_TIME = 0x17, 0x18
_ALTERNATIVE_NAMES = bytes.fromhex("551d11")
_DNS_NAME, _IP_ADDRESS = 0x82, 0x87
_STRINGS = {
    # Those that should be ASCII are often UTF-8 in the wild.
    0x0C: "utf-8",  # UTF8String
    0x12: "utf-8",  # NumericString
    0x13: "utf-8",  # PrintableString
    0x14: "latin-1",  # TeletexString
    0x16: "utf-8",  # IA5String
    0x1A: "utf-8",  # VisibleString
    0x1C: "utf-32-be",  # UniversalString
    0x1E: "utf-16-be",  # BMPString
}
_ATTRIBUTES = {
    bytes.fromhex("550403"): "CN",
    bytes.fromhex("550405"): "SERIALNUMBER",
    bytes.fromhex("550406"): "C",
    bytes.fromhex("550407"): "L",
    bytes.fromhex("550408"): "ST",
    bytes.fromhex("550409"): "STREET",
    bytes.fromhex("55040a"): "O",
    bytes.fromhex("55040b"): "OU",
    bytes.fromhex("550411"): "POSTALCODE",
    bytes.fromhex("0992268993f22c640119"): "DC",
    bytes.fromhex("0992268993f22c640101"): "UID",
}


class CertificateFacts(msgspec.Struct, frozen=True, kw_only=True):
    """One certificate. Times: seconds since 1970 UTC. subject and issuer: RFC 4514 ("CN=a.example,O=Shop").

    names: subject alternative names: DNS names as written and IP addresses, at most MAX_NAMES of them.
    serial: hex without leading zeros. fingerprint: SHA-256 of the whole certificate, hex.
    """

    not_before_s: float
    not_after_s: float
    subject: str
    issuer: str
    names: tuple[str, ...]
    serial: str
    fingerprint: str


def _element(data: memoryview, at: int) -> tuple[int, memoryview, int]:
    """Return (tag, content, offset of what follows) of the element at an offset."""
    if at + 2 > len(data):
        raise ValueError("certificate ends early")
    tag, length = data[at], data[at + 1]
    at += 2
    if tag & 0x1F == 0x1F:
        raise ValueError("certificate has a tag of several bytes")
    if length & 0x80:
        size = length & 0x7F
        if not 1 <= size <= 4 or at + size > len(data):
            raise ValueError("certificate has a bad length")
        length = int.from_bytes(data[at : at + size], "big")
        at += size
    if at + length > len(data):
        raise ValueError("certificate ends early")
    return tag, data[at : at + length], at + length


def _elements(data: memoryview) -> Iterator[tuple[int, memoryview]]:
    at = 0
    while at < len(data):
        tag, content, at = _element(data, at)
        yield tag, content


def _expect(element: tuple[int, memoryview] | None, tag: int) -> memoryview:
    if element is None or element[0] != tag:
        raise ValueError("certificate has not the structure of X.509")
    return element[1]


def _time(element: tuple[int, memoryview] | None) -> float:
    if element is None:
        raise ValueError("certificate has no validity")
    tag, content = element
    text = bytes(content).decode("ascii", "replace")
    if tag == _UTC_TIME and len(text) == 13:
        # RFC 5280: two-digit years from 50 on are of the last century.
        text = ("19" if text[:2] >= "50" else "20") + text
    elif tag != _GENERALIZED_TIME:
        raise ValueError("certificate has a bad time")
    # strptime would accept spaces and short fields.
    if len(text) != 15 or text[14] != "Z" or not (text[:14].isascii() and text[:14].isdigit()):
        raise ValueError("certificate has a bad time")
    fields = (int(text[:4]), *(int(text[at : at + 2]) for at in range(4, 14, 2)))
    return datetime(*fields, tzinfo=UTC).timestamp()  # type: ignore[misc, arg-type]


def _dotted(content: bytes) -> str:
    """Return an object identifier as 1.2.840.…"""
    numbers: list[int] = []
    value = 0
    for byte in content:
        value = value << 7 | byte & 0x7F
        if value.bit_length() > 128:
            raise ValueError("certificate has an overlong object identifier")
        if not byte & 0x80:
            numbers.append(value)
            value = 0
    if not numbers:
        raise ValueError("certificate has an empty object identifier")
    first = min(numbers[0] // 40, 2)
    return ".".join(map(str, (first, numbers[0] - 40 * first, *numbers[1:])))


def _escaped(text: str) -> str:
    out = "".join(f"\\{char}" if char in '\\",+;<>' else char for char in text).replace("\0", "\\00")
    if out.startswith(("#", " ")):
        out = "\\" + out
    if text.endswith(" ") and len(text) > 1:
        out = out[:-1] + "\\ "
    return out


def _attribute(content: memoryview) -> str:
    parts = _elements(content)
    oid = bytes(_expect(next(parts, None), _OID))
    tag, value = next(parts, (0, memoryview(b"")))
    name = _ATTRIBUTES.get(oid) or _dotted(oid)
    if tag in _STRINGS:
        text = bytes(value).decode(_STRINGS[tag], "replace")
    else:
        text = "#" + bytes(value).hex()
        return f"{name}={text}"
    return f"{name}={_escaped(text)}"


def _name(content: memoryview) -> str:
    """Return a distinguished name as RFC 4514 writes it: most specific part first."""
    parts = []
    for tag, rdn in _elements(content):
        attributes = [_attribute(_expect(element, _SEQUENCE)) for element in _elements(_expect((tag, rdn), _SET))]
        parts.append("+".join(attributes))
    return ",".join(reversed(parts))


def _alternative_names(extensions: memoryview) -> tuple[str, ...]:
    names: list[str] = []
    for element in _elements(extensions):
        parts = list(_elements(_expect(element, _SEQUENCE)))
        if len(parts) < 2 or parts[0][0] != _OID or bytes(parts[0][1]) != _ALTERNATIVE_NAMES:
            continue
        _, content, _ = _element(_expect(parts[-1], _OCTET_STRING), 0)
        for tag, value in _elements(content):
            if tag == _DNS_NAME:
                names.append(bytes(value).decode("ascii", "backslashreplace"))
            elif tag == _IP_ADDRESS:
                names.append(str(ipaddress.ip_address(bytes(value))))
            if len(names) >= MAX_NAMES:
                break
    return tuple(names)


@lru_cache(maxsize=2048)
def certificate_facts(der: bytes) -> CertificateFacts:
    """Return what a certificate says. Kept for the 2,048 certificates seen last, since targets show the same again.

    Raises: ValueError for anything that is not a certificate, whatever the bytes.
    """
    if len(der) > MAX_DER_BYTES:
        raise ValueError(f"certificate has more than {MAX_DER_BYTES} bytes")
    tag, certificate, _ = _element(memoryview(der), 0)
    to_be_signed = _expect(next(_elements(_expect((tag, certificate), _SEQUENCE)), None), _SEQUENCE)
    fields = list(_elements(to_be_signed))
    if fields and fields[0][0] == 0xA0:  # the version, absent in version 1
        del fields[0]
    if len(fields) < 6:
        raise ValueError("certificate has not the structure of X.509")
    validity = _elements(_expect(fields[3], _SEQUENCE))
    names: tuple[str, ...] = ()
    for field_tag, content in fields[6:]:
        if field_tag == 0xA3:
            names = _alternative_names(_expect(next(_elements(content), None), _SEQUENCE))
    return CertificateFacts(
        not_before_s=_time(next(validity, None)),
        not_after_s=_time(next(validity, None)),
        subject=_name(_expect(fields[4], _SEQUENCE)),
        issuer=_name(_expect(fields[2], _SEQUENCE)),
        names=names,
        serial=f"{int.from_bytes(_expect(fields[0], _INTEGER), 'big', signed=True):x}",
        fingerprint=hashlib.sha256(der).hexdigest(),
    )


def earliest_expiry(ders: Iterable[bytes]) -> float:
    """Return when the first certificate of a chain expires, seconds since 1970 UTC.

    Raises: ValueError if there is none, or one cannot be read.
    """
    return min(certificate_facts(der).not_after_s for der in ders)


def peer_chain(connection: Any) -> tuple[bytes, ...]:
    """Return the certificates that the peer sent, DER, its own first; empty where it sent none.

    connection: an ssl.SSLSocket or ssl.SSLObject after the handshake. Python has a public call for the whole chain
    from 3.13 on; before that the private object has it; without either the leaf is all there is.
    """
    return _chain(connection, "get_unverified_chain") or _leaf(connection)


def verified_chain(connection: Any) -> tuple[bytes, ...]:
    """Return the chain that was verified, up to its root, DER; empty where nothing was verified."""
    return _chain(connection, "get_verified_chain")


def _chain(connection: Any, method: str) -> tuple[bytes, ...]:
    get = getattr(connection, method, None) or getattr(getattr(connection, "_sslobj", None), method, None)
    if get is None:
        return ()
    try:
        chain = get() or ()
    except ValueError:  # no handshake yet
        return ()
    # 2 is _ssl.ENCODING_DER; from 3.13 on the public call returns bytes.
    return tuple(item if isinstance(item, bytes) else bytes(item.public_bytes(2)) for item in chain)


def _leaf(connection: Any) -> tuple[bytes, ...]:
    try:
        der = connection.getpeercert(True)
    except ValueError:
        return ()
    return (der,) if der else ()
