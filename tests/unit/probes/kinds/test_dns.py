"""The dns kind against a server that answers whatever a test wants."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import dns.flags
import dns.message
import dns.rcode
import dns.rrset
import pytest
from tests.probing import Trust, ask, peer

from dogwatch.probes.kinds.dns import DnsProbe, RecordChecks
from dogwatch.probes.trust import TlsOptions

Answer = Callable[[dns.message.Message], list[bytes]]


class Server(asyncio.DatagramProtocol):
    def __init__(self, answer: Answer) -> None:
        self.answer = answer
        self.queries: list[dns.message.Message] = []

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def datagram_received(self, data: bytes, address: Any) -> None:
        query = dns.message.from_wire(data)
        self.queries.append(query)
        for wire in self.answer(query):
            self.transport.sendto(wire, address)


@contextlib.asynccontextmanager
async def udp(answer: Answer) -> AsyncIterator[tuple[str, Server]]:
    loop = asyncio.get_running_loop()
    transport, server = await loop.create_datagram_endpoint(lambda: Server(answer), local_addr=("127.0.0.1", 0))
    try:
        yield f"127.0.0.1:{transport.get_extra_info('sockname')[1]}", server
    finally:
        transport.close()


def respond(query: dns.message.Message, *records: str, flags: int = 0, rcode: int = 0) -> dns.message.Message:
    response = dns.message.make_response(query)
    response.flags |= flags
    response.set_rcode(dns.rcode.Rcode(rcode))
    for record in records:
        name, ttl, class_, type_, data = record.split(" ", 4)
        response.answer.append(dns.rrset.from_text(name, int(ttl), class_, type_, data))
    return response


def simply(*records: str, flags: int = 0, rcode: int = 0) -> Answer:
    return lambda query: [respond(query, *records, flags=flags, rcode=rcode).to_wire()]


A = ("a.example. 60 IN A 192.0.2.1", "a.example. 30 IN A 192.0.2.2")


@pytest.mark.parametrize(
    ("match", "values", "success"),
    [
        ("exact", ("192.0.2.2", "192.0.2.1"), True),
        ("exact", ("192.0.2.1",), False),
        ("exact", ("192.0.2.1", "192.0.2.2", "192.0.2.3"), False),
        ("contains", ("192.0.2.1",), True),
        ("contains", ("192.0.2.9",), False),
        ("any", ("192.0.2.9", "192.0.2.2"), True),
        ("any", ("192.0.2.9",), False),
        ("regex", (r"^192\.0\.2\.\d$",), True),
        ("regex", (r"^10\.",), False),
    ],
)
async def test_values(match: Any, values: tuple[str, ...], success: bool) -> None:
    async with udp(simply(*A)) as (server, _):
        result = await ask(DnsProbe(name="a.example", server=server, match=match, values=values))
    assert result.success is success, result.message
    assert result.reason == ("" if success else "mismatch")
    assert result.values["answer"] == ["192.0.2.1", "192.0.2.2"]
    assert (result.values["answer_rrs"], result.values["ttl_min_s"]) == (2, 30)
    assert result.values["query_succeeded"] is True


@pytest.mark.parametrize(
    ("type_", "record", "value"),
    [
        ("AAAA", "a.example. 60 IN AAAA 2001:db8::1", "2001:0DB8:0:0::1"),
        ("CNAME", "a.example. 60 IN CNAME B.example.", "b.example"),
        ("MX", "a.example. 60 IN MX 10 mail.example.", "10 MAIL.example"),
        ("TXT", 'a.example. 60 IN TXT "v=spf1 " "-ALL"', "v=spf1 -ALL"),
        ("SRV", "a.example. 60 IN SRV 1 2 443 b.example.", "1 2 443 b.example."),
        ("CAA", 'a.example. 60 IN CAA 0 issue "ca.example"', "0 issue ca.example"),
    ],
)
async def test_values_of_types_are_compared_by_meaning(type_: str, record: str, value: str) -> None:
    async with udp(simply(record)) as (server, _):
        probe = DnsProbe(name="a.example", type=type_, server=server, match="exact", values=(value,))
        result = await ask(probe)
    assert result.success, result.message


async def test_codes() -> None:
    async with udp(simply(rcode=3)) as (server, _):
        plain = await ask(DnsProbe(name="a.example", server=server))
        wanted = await ask(DnsProbe(name="a.example", server=server, rcode=("NXDOMAIN",)))
    assert (plain.reason, plain.values["rcode"]) == ("status", "NXDOMAIN")
    assert wanted.success


@pytest.mark.parametrize(
    ("checks", "success"),
    [
        (RecordChecks(fail_if_matches=(r"\b192\.0\.2\.2$",)), False),
        (RecordChecks(fail_if_matches=("203",)), True),
        (RecordChecks(fail_if_not_matches=("192",)), True),
        (RecordChecks(fail_if_not_matches=(r"\.1$",)), False),
        (RecordChecks(fail_if_all_match=("192",)), False),
        (RecordChecks(fail_if_all_match=(r"\.1$",)), True),
        (RecordChecks(fail_if_none_matches=(r"\.2$",)), True),
        (RecordChecks(fail_if_none_matches=("203",)), False),
        (RecordChecks(min_records=3), False),
    ],
)
async def test_record_checks(checks: RecordChecks, success: bool) -> None:
    async with udp(simply(*A)) as (server, _):
        result = await ask(DnsProbe(name="a.example", server=server, answer=checks))
    assert result.success is success
    if not success:
        assert "the answer section" in result.message
        assert result.evidence is not None
        assert "192.0.2.1" in result.evidence().body


async def test_flags_of_the_query_and_of_the_answer() -> None:
    async with udp(simply(*A, flags=dns.flags.AD | dns.flags.AA)) as (server, peer_):
        good = await ask(DnsProbe(name="a.example", server=server, dnssec=True, edns_payload=4096))
        await ask(DnsProbe(name="a.example", server=server, recursion=False, edns_payload=0))
    first, second = peer_.queries
    assert good.success
    assert (good.values["authentic"], good.values["authoritative"]) == (True, True)
    assert first.flags & dns.flags.RD
    assert first.flags & dns.flags.AD
    assert first.ednsflags & dns.flags.DO
    assert first.payload == 4096
    assert not second.flags & dns.flags.RD
    assert second.edns == -1
    async with udp(simply(*A)) as (server, _):
        unverified = await ask(DnsProbe(name="a.example", server=server, dnssec=True))
    assert unverified.reason == "mismatch"
    assert "DNSSEC" in unverified.message


async def test_forged_and_late_answers_are_passed_over() -> None:
    def forge(query: dns.message.Message) -> list[bytes]:
        other_id = respond(query, "a.example. 60 IN A 203.0.113.1")
        other_id.id = query.id ^ 1
        other_name = dns.message.make_response(dns.message.make_query("evil.example", "A", id=query.id))
        return [b"", b"\0" * 5, other_id.to_wire(), other_name.to_wire(), respond(query, A[0]).to_wire()]

    async with udp(forge) as (server, _):
        result = await ask(DnsProbe(name="A.Example", server=server))
    assert result.values["answer"] == ["192.0.2.1"]


async def test_garbage_is_an_answer_that_cannot_be_read() -> None:
    def garbage(query: dns.message.Message) -> list[bytes]:
        wire = query.to_wire()
        return [wire[:2] + b"\x80\x00\x00\x01\x00\x63\x00\x00\x00\x00" + wire[12:] + b"\xc0\xff" * 20]

    async with udp(garbage) as (server, _):
        result = await ask(DnsProbe(name="a.example", server=server, edns_payload=0))
    assert result.reason == "protocol"


async def _stream(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    wire = await reader.readexactly(int.from_bytes(await reader.readexactly(2), "big"))
    answer = respond(dns.message.from_wire(wire), *A).to_wire()
    writer.write(len(answer).to_bytes(2, "big") + answer)


async def test_tcp_and_tls(tmp_path: Path) -> None:
    trust = Trust(tmp_path)
    async with peer(_stream) as port:
        plain = await ask(DnsProbe(name="a.example", server=f"127.0.0.1:{port}", transport="tcp"))
    async with peer(_stream, trust.server()) as port:
        options = TlsOptions(ca_file=trust.ca_file)
        secure = await ask(DnsProbe(name="a.example", server=f"127.0.0.1:{port}", transport="tls", tls=options))
        untrusted = await ask(DnsProbe(name="a.example", server=f"127.0.0.1:{port}", transport="tls"))
    assert plain.success
    assert secure.success
    assert secure.phases is not None
    assert secure.phases.tls_s > 0
    assert untrusted.reason == "certificate"


async def test_an_answer_that_was_cut_is_asked_for_again_over_tcp() -> None:
    async with peer(_stream) as port:
        loop = asyncio.get_running_loop()
        transport, _ = await loop.create_datagram_endpoint(
            lambda: Server(simply(flags=dns.flags.TC)), local_addr=("127.0.0.1", port)
        )
        result = await ask(DnsProbe(name="a.example", server=f"127.0.0.1:{port}"))
        transport.close()
    assert result.success
    assert result.values["answer_rrs"] == 2


async def test_a_pointer_is_asked_for_by_address() -> None:
    async with udp(simply("1.2.0.192.in-addr.arpa. 60 IN PTR a.example.")) as (server, peer_):
        result = await ask(DnsProbe(name="192.0.2.1", type="ptr", server=server, values=("a.example",)))
    assert result.success, result.message
    assert str(peer_.queries[0].question[0].name) == "1.2.0.192.in-addr.arpa."


async def test_a_server_that_refuses_by_icmp() -> None:
    # A port that is nobody else's, and takes datagrams of itself only.
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as held:
        held.bind(("127.0.0.1", 0))
        held.connect(held.getsockname())
        result = await ask(DnsProbe(name="a.example", server=f"127.0.0.1:{held.getsockname()[1]}"))
    assert result.reason == "refused"
    assert result.values["query_succeeded"] is False


@pytest.mark.parametrize(
    ("options", "where", "says"),
    [
        ({"name": "example.org", "type": "FOO"}, "type", "'FOO' is no type of record"),
        ({"name": "example.org", "class_": "XX"}, "class_", "'XX' is no class of records"),
        ({"name": ".."}, "name", "'..' cannot be asked for: a DNS label is empty"),
        ({"name": "a" * 64 + ".org"}, "name", "cannot be asked for: a DNS label is > 63 octets long"),
    ],
)
def test_what_cannot_be_asked_for_is_named(options: dict[str, Any], where: str, says: str) -> None:
    ((path, message, _hint),) = DnsProbe(**options).faults()
    assert path == (where,)
    assert message.endswith(says) or message == says
