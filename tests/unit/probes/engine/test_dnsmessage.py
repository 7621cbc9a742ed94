from __future__ import annotations

import struct

import dns.flags
import dns.message
import dns.rrset
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dogwatch.probes.engine import dnsmessage as wire

NAME = wire.encode_name("shop.example")


def answer(*records: str, rcode: int = 0, flags: int = 0, question: str = "shop.example", kind: str = "A") -> bytes:
    """Build an answer with another library, so that both must agree on the format."""
    query = dns.message.make_query(question, kind, id=7)
    reply = dns.message.make_response(query)
    reply.set_rcode(rcode)
    reply.flags |= flags
    for record in records:
        owner, ttl, record_kind, data = record.split(" ", 3)
        section = reply.authority if record_kind == "SOA" else reply.answer
        section.append(dns.rrset.from_text(owner, int(ttl), "IN", record_kind, data))
    return reply.to_wire()


def test_a_query_is_what_another_library_reads() -> None:
    query = dns.message.from_wire(wire.encode_query(513, NAME, wire.AAAA, edns=True))
    assert (query.id, query.edns, query.payload) == (513, 0, wire.EDNS_BYTES)
    assert query.question[0].to_text() == "shop.example. IN AAAA"
    assert query.flags & dns.flags.RD
    plain = dns.message.from_wire(wire.encode_query(1, NAME, wire.A, edns=False))
    assert plain.edns == -1


def test_addresses_through_a_chain_of_aliases() -> None:
    message = answer(
        "shop.example. 300 CNAME Edge.Example.",
        "edge.example. 60 CNAME pop.example.",
        "pop.example. 200 A 192.0.2.1",
        "pop.example. 200 A 192.0.2.2",
        "unrelated.example. 5 A 192.0.2.99",
    )
    assert wire.matches(message, 7, NAME, wire.A)
    found = wire.decode_answer(message, NAME, wire.A)
    assert sorted(found.addresses) == ["192.0.2.1", "192.0.2.2"]
    assert found.ttl_s == 60


def test_negative_answers_carry_how_long_they_hold() -> None:
    message = answer("example. 900 SOA ns.example. root.example. 1 2 3 4 30", rcode=3)
    found = wire.decode_answer(message, NAME, wire.A)
    assert (found.rcode, found.addresses, found.ttl_s) == (wire.NXDOMAIN, (), 30)


def test_truncation_and_other_family() -> None:
    assert wire.decode_answer(answer(flags=dns.flags.TC), NAME, wire.A).truncated
    message = answer("shop.example. 5 AAAA 2001:db8::1", kind="AAAA")
    assert wire.decode_answer(message, NAME, wire.AAAA).addresses == ("2001:db8::1",)


def test_a_loop_of_aliases_ends() -> None:
    message = answer("shop.example. 1 CNAME a.example.", "a.example. 1 CNAME shop.example.")
    with pytest.raises(ValueError, match="without end"):
        wire.decode_answer(message, NAME, wire.A)


def test_a_compression_loop_ends() -> None:
    header = struct.pack(">HHHHHH", 7, 0x8180, 1, 1, 0, 0)
    message = header + NAME + b"\0\1\0\1" + struct.pack(">H", 0xC000 | (12 + len(NAME) + 4)) + b"\0" * 10
    with pytest.raises(ValueError, match="backwards"):
        wire.decode_answer(message, NAME, wire.A)


@pytest.mark.parametrize(
    "other",
    [
        answer(question="other.example"),
        answer(kind="AAAA"),
        b"",
        b"\0" * 11,
        dns.message.make_query("shop.example", "A", id=7).to_wire(),
    ],
)
def test_what_does_not_answer_the_question_does_not_match(other: bytes) -> None:
    assert not wire.matches(other, 7, NAME, wire.A)
    assert not wire.matches(answer(), 8, NAME, wire.A)
    assert wire.matches(answer(question="SHOP.example"), 7, NAME, wire.A)


@pytest.mark.parametrize("name", ["", ".", "a..b", "x" * 64 + ".example", ".".join(["x" * 60] * 5)])
def test_names_that_are_none(name: str) -> None:
    with pytest.raises(ValueError, match="not a name"):
        wire.encode_name(name)


@given(st.binary(max_size=300))
def test_any_bytes_behind_the_question_are_an_answer_or_a_value_error(tail: bytes) -> None:
    message = struct.pack(">HHH", 7, 0x8180, 1) + tail[:6].ljust(6, b"\1") + NAME + b"\0\1\0\1" + tail[6:]
    assert wire.matches(message, 7, NAME, wire.A)
    try:
        found = wire.decode_answer(message, NAME, wire.A)
    except ValueError:
        return
    assert found.ttl_s >= 0


@given(st.data())
def test_a_real_answer_with_flipped_bytes_never_crashes(data: st.DataObject) -> None:
    message = bytearray(answer("shop.example. 300 CNAME b.example.", "b.example. 60 A 192.0.2.1"))
    for _ in range(data.draw(st.integers(1, 4))):
        message[data.draw(st.integers(0, len(message) - 1))] = data.draw(st.integers(0, 255))
    if wire.matches(bytes(message), 7, NAME, wire.A):
        try:
            wire.decode_answer(bytes(message), NAME, wire.A)
        except ValueError:
            return
