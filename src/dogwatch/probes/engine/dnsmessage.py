"""DNS messages (RFC 1035, EDNS0 of RFC 6891): a query for one question, and the addresses in an answer.

Own code, not dnspython: that costs 12 MB and about 100 µs a message for the two record types an engine needs.
"""

from __future__ import annotations

import socket

import msgspec

A, CNAME, SOA, AAAA, OPT = 1, 5, 6, 28, 41
NOERROR, FORMERR, SERVFAIL, NXDOMAIN, NOTIMP, REFUSED = 0, 1, 2, 3, 4, 5
# The size that DNS Flag Day 2020 recommends: it is not fragmented on any usual path.
EDNS_BYTES = 1232
_OPT_RECORD = b"\0" + OPT.to_bytes(2, "big") + EDNS_BYTES.to_bytes(2, "big") + b"\0\0\0\0\0\0"
_MAX_RECORDS = 512
_MAX_CHAIN = 16
_RCODES = {1: "FORMERR", 2: "SERVFAIL", 3: "NXDOMAIN", 4: "NOTIMP", 5: "REFUSED"}


class Answer(msgspec.Struct, frozen=True):
    """What a server said to one question. ttl_s: how long it may be kept; for no addresses, how long that may be."""

    rcode: int
    truncated: bool
    addresses: tuple[str, ...]
    ttl_s: float


def rcode_name(rcode: int) -> str:
    return _RCODES.get(rcode, f"RCODE {rcode}")


def encode_name(name: str) -> bytes:
    """Return a name on the wire.

    Raises: ValueError for an empty or overlong label or name.
    """
    raw = name.rstrip(".")
    if not raw.isascii():
        raw = raw.encode("idna").decode("ascii")
    out = bytearray()
    for label in raw.split("."):
        data = label.encode("ascii")
        if not 0 < len(data) < 64:
            raise ValueError(f"'{name}' is not a name: labels have 1 to 63 characters")
        out.append(len(data))
        out += data
    if len(out) > 254:
        raise ValueError(f"'{name}' is not a name: it is longer than 253 characters")
    return bytes(out) + b"\0"


def encode_query(query_id: int, wire_name: bytes, record_type: int, *, edns: bool) -> bytes:
    """Return a recursive query for one question."""
    header = query_id.to_bytes(2, "big") + b"\x01\x00\x00\x01\x00\x00\x00\x00" + (b"\0\1" if edns else b"\0\0")
    return header + wire_name + record_type.to_bytes(2, "big") + b"\0\1" + (_OPT_RECORD if edns else b"")


def matches(message: bytes, query_id: int, wire_name: bytes, record_type: int) -> bool:
    """Return whether a message answers that query: id, answer bit, and the very question, in any case of letters."""
    end = 12 + len(wire_name) + 4
    return (
        len(message) >= end
        and message[0] << 8 | message[1] == query_id
        and message[2] & 0xF8 == 0x80
        and message[4:6] == b"\0\1"
        and message[12 : 12 + len(wire_name)].lower() == wire_name.lower()
        and message[end - 4 : end] == record_type.to_bytes(2, "big") + b"\0\1"
    )


def decode_answer(message: bytes, wire_name: bytes, record_type: int) -> Answer:
    """Return the addresses for the question of a message that `matches`, following CNAMEs within it.

    Raises: ValueError for anything malformed.
    """
    rcode = message[3] & 0x0F
    truncated = bool(message[2] & 0x02)
    at = 12 + len(wire_name) + 4
    answers = int.from_bytes(message[6:8], "big")
    authorities = int.from_bytes(message[8:10], "big")
    if answers + authorities > _MAX_RECORDS:
        raise ValueError("more records than an answer can need")
    aliases: dict[bytes, tuple[bytes, int]] = {}
    found: dict[bytes, list[tuple[str, int]]] = {}
    negative_ttl = 0
    for number in range(answers + authorities):
        owner, at = _name(message, at)
        kind, ttl, start, at = _record(message, at)
        if number >= answers:
            if kind == SOA:
                negative_ttl = min(ttl, int.from_bytes(message[at - 4 : at], "big"))
        elif kind == CNAME:
            aliases.setdefault(owner, (_name(message, start)[0], ttl))
        elif kind == record_type:
            found.setdefault(owner, []).append((_address(message[start:at], record_type), ttl))
    return _chosen(wire_name.lower(), aliases, found, Answer(rcode, truncated, (), float(negative_ttl)))


def _chosen(
    owner: bytes,
    aliases: dict[bytes, tuple[bytes, int]],
    found: dict[bytes, list[tuple[str, int]]],
    nothing: Answer,
) -> Answer:
    ttl = 1 << 31
    for _ in range(_MAX_CHAIN):
        if owner in found:
            records = found[owner]
            ttl = min(ttl, *(record_ttl for _, record_ttl in records), 1 << 31)
            addresses = tuple(dict.fromkeys(address for address, _ in records))
            return Answer(nothing.rcode, nothing.truncated, addresses, float(ttl))
        if owner not in aliases:
            return nothing
        owner, alias_ttl = aliases[owner]
        ttl = min(ttl, alias_ttl)
    raise ValueError("a chain of aliases without end")


def _record(message: bytes, at: int) -> tuple[int, int, int, int]:
    """Return (type, TTL, start of the data, end of the data) of the record whose owner ends at an offset."""
    if at + 10 > len(message):
        raise ValueError("message ends within a record")
    kind = message[at] << 8 | message[at + 1]
    ttl = int.from_bytes(message[at + 4 : at + 8], "big")
    start = at + 10
    end = start + (message[at + 8] << 8 | message[at + 9])
    if end > len(message):
        raise ValueError("message ends within a record")
    # RFC 2181: a TTL with the top bit set counts as 0.
    return kind, ttl if ttl < 1 << 31 else 0, start, end


def _address(data: bytes, record_type: int) -> str:
    if record_type == A and len(data) == 4:
        return socket.inet_ntop(socket.AF_INET, data)
    if record_type == AAAA and len(data) == 16:
        return socket.inet_ntop(socket.AF_INET6, data)
    raise ValueError("an address of the wrong length")


def _name(message: bytes, at: int) -> tuple[bytes, int]:
    """Return (name on the wire in lower case, offset behind it); compression pointers must lead backwards."""
    labels: list[bytes] = []
    behind = -1
    limit = at
    size = 0
    while True:
        if at >= len(message):
            raise ValueError("message ends within a name")
        length = message[at]
        if length & 0xC0 == 0xC0:
            if at + 1 >= len(message):
                raise ValueError("message ends within a name")
            target = (length & 0x3F) << 8 | message[at + 1]
            behind = at + 2 if behind < 0 else behind
            # Each pointer must go before the last one's target, so that no message can make a loop.
            if target >= limit:
                raise ValueError("a compression pointer that does not lead backwards")
            at = limit = target
            continue
        if length & 0xC0:
            raise ValueError("an unknown kind of label")
        at += 1
        if not length:
            break
        labels.append(message[at - 1 : at + length])
        size += length + 1
        if size > 254:
            raise ValueError("a name that is too long")
        at += length
    return b"".join(labels).lower() + b"\0", behind if behind >= 0 else at
