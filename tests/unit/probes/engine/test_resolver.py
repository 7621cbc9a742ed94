"""The resolver against a name server that lies, hangs, truncates and answers by the test's book."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from time import perf_counter

import dns.flags
import dns.message
import dns.rcode
import dns.rrset
import pytest

from dogwatch.probes.engine import Engine, EngineOptions
from dogwatch.probes.engine.addresses import Address
from dogwatch.probes.engine.resolvconf import ResolverConfig
from dogwatch.probes.engine.resolver import ResolverFiles

Reply = Callable[[dns.message.Message], "dns.message.Message | bytes | None"]


def records(*lines: str, rcode: int = 0, flags: int = 0) -> Reply:
    """Answer with the records of the type asked for (and any CNAME)."""

    def reply(query: dns.message.Message) -> dns.message.Message:
        answer = dns.message.make_response(query)
        answer.set_rcode(dns.rcode.Rcode(rcode))
        answer.flags |= flags
        kind = query.question[0].rdtype.name
        for line in lines:
            owner, ttl, record_kind, data = line.split(" ", 3)
            if record_kind in {kind, "CNAME"}:
                answer.answer.append(dns.rrset.from_text(owner, int(ttl), "IN", record_kind, data))
        return answer

    return reply


class NameServer(asyncio.DatagramProtocol):
    """Serves one book over UDP and TCP; keeps the questions and the ports they came from."""

    def __init__(self, reply: Reply, tcp: Reply | None = None) -> None:
        self.reply, self.tcp = reply, tcp
        self.questions: list[str] = []
        self.ports: list[int] = []
        self.edns: list[int] = []
        self.ids: list[int] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def datagram_received(self, data: bytes, address: tuple[str, int]) -> None:
        query = dns.message.from_wire(data)
        self.questions.append(f"{query.question[0].name} {query.question[0].rdtype.name}")
        self.ports.append(address[1])
        self.edns.append(query.edns)
        self.ids.append(query.id)
        self.answer(query, address)

    def answer(self, query: dns.message.Message, address: tuple[str, int]) -> None:
        answer = self.reply(query)
        if answer is not None:
            content = answer if isinstance(answer, bytes) else answer.to_wire(max_size=65535)
            self.transport.sendto(content, address)  # type: ignore[attr-defined]

    async def serve_tcp(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            (size,) = struct.unpack(">H", await reader.readexactly(2))
            query = dns.message.from_wire(await reader.readexactly(size))
            answer = self.tcp(query) if self.tcp is not None else None
            if answer is not None:
                content = answer if isinstance(answer, bytes) else answer.to_wire(max_size=65535)
                framed = struct.pack(">H", len(content)) + content
                for at in range(0, len(framed), 5):  # in pieces, as networks do
                    writer.write(framed[at : at + 5])
                    await writer.drain()
        except asyncio.IncompleteReadError:
            pass
        finally:
            writer.close()


@asynccontextmanager
async def name_server(reply: Reply, tcp: Reply | None = None) -> AsyncIterator[tuple[NameServer, int]]:
    loop = asyncio.get_running_loop()
    server = NameServer(reply, tcp)
    listener = await asyncio.start_server(server.serve_tcp, "127.0.0.1", 0)
    port = listener.sockets[0].getsockname()[1]
    transport, _ = await loop.create_datagram_endpoint(lambda: server, local_addr=("127.0.0.1", port))
    try:
        yield server, port
    finally:
        transport.close()
        listener.close()
        await asyncio.sleep(0)


class Asker:
    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    async def ask(self, name: str, family: str = "auto", timeout_s: float = 5.0) -> tuple[tuple[Address, ...], str]:
        future: asyncio.Future[tuple[tuple[Address, ...], str]] = asyncio.get_running_loop().create_future()
        self.engine.resolve(
            name, family, perf_counter() + timeout_s, lambda addresses, message: future.set_result((addresses, message))
        )
        return await future


@asynccontextmanager
async def asker(*ports: int, hosts: str = "/nonexistent", **options: object) -> AsyncIterator[Asker]:
    config = ResolverConfig(servers=tuple(("127.0.0.1", port) for port in ports), **options)  # type: ignore[arg-type]
    engine = Engine(EngineOptions(resolver=ResolverFiles(hosts=hosts, config=config)))
    engine.open()
    try:
        yield Asker(engine)
        assert not engine.resolver._lookups
        assert not engine._table
    finally:
        engine.close()


def hosts_of(found: tuple[tuple[Address, ...], str]) -> list[str]:
    return [host for _, host in found[0]]


BOTH = records("shop.test. 60 A 192.0.2.1", "shop.test. 60 AAAA 2001:db8::1")


async def test_both_families_in_the_order_to_try_and_from_the_cache_afterwards() -> None:
    async with name_server(BOTH) as (server, port), asker(port) as one:
        assert hosts_of(await one.ask("shop.test")) == ["2001:db8::1", "192.0.2.1"]
        assert sorted(server.questions) == ["shop.test. A", "shop.test. AAAA"]
        assert hosts_of(await one.ask("SHOP.test.", "auto")) == ["2001:db8::1", "192.0.2.1"]
        assert len(server.questions) == 2
        assert hosts_of(await one.ask("shop.test", "4")) == ["192.0.2.1"]
        assert server.questions[2:] == ["shop.test. A"]
        assert hosts_of(await one.ask("shop.test", "6?")) == ["2001:db8::1"]


async def test_ports_and_ids_are_fresh() -> None:
    reply = records(*(f"n{number}.test. 60 A 192.0.2.1" for number in range(20)))
    async with name_server(reply) as (server, port), asker(port) as one:
        for number in range(20):
            assert (await one.ask(f"n{number}.test", "4"))[0]
        assert len(set(server.ports)) > 15
        assert len(set(server.ids)) > 15


async def test_those_who_ask_the_same_share_one_lookup() -> None:
    async with name_server(BOTH) as (server, port), asker(port) as one:
        found = await asyncio.gather(*(one.ask("shop.test") for _ in range(50)))
        assert all(hosts_of(answer) == ["2001:db8::1", "192.0.2.1"] for answer in found)
        assert len(server.questions) == 2


async def test_missing_names_are_kept_a_short_while() -> None:
    async with name_server(records(rcode=3)) as (server, port), asker(port) as one:
        assert await one.ask("nope.test", "4") == ((), "no such name")
        assert len(server.questions) == 1
    async with name_server(records("v6.test. 60 AAAA 2001:db8::1")) as (server, port), asker(port) as one:
        assert await one.ask("v6.test", "4") == ((), "the name has no address")
        assert hosts_of(await one.ask("v6.test", "4?")) == ["2001:db8::1"]


async def test_the_search_list_is_followed() -> None:
    def reply(query: dns.message.Message) -> dns.message.Message:
        found = str(query.question[0].name) == "db.b.test."
        return records("db.b.test. 60 A 192.0.2.7", rcode=0 if found else 3)(query)  # type: ignore[return-value]

    async with name_server(reply) as (server, port), asker(port, search=("a.test", "b.test")) as one:
        assert hosts_of(await one.ask("db", "4")) == ["192.0.2.7"]
        assert server.questions == ["db.a.test. A", "db.b.test. A"]


async def test_a_dead_server_is_passed_over() -> None:
    async with name_server(BOTH) as (_, port):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as closed:
            closed.bind(("127.0.0.1", 0))
            dead = closed.getsockname()[1]
        async with asker(dead, port) as one:
            assert hosts_of(await one.ask("shop.test", "4")) == ["192.0.2.1"]
    async with (
        name_server(records(rcode=2)) as (_, failing),
        name_server(BOTH) as (_, port),
        asker(failing, port) as one,
    ):
        assert hosts_of(await one.ask("shop.test", "4")) == ["192.0.2.1"]
    async with name_server(records(rcode=5)) as (_, port), asker(port) as one:
        assert (await one.ask("shop.test", "4"))[1] == "name server 127.0.0.1 answered REFUSED"


async def test_a_server_that_hangs_ends_by_the_deadline() -> None:
    async with name_server(lambda _query: None) as (_, port), asker(port) as one:
        started_s = perf_counter()
        addresses, message = await one.ask("shop.test", timeout_s=0.2)
        assert 0.2 <= perf_counter() - started_s < 3
        assert (addresses, message) == ((), "no answer from name server 127.0.0.1 in time")
        # Each who waits has a deadline of its own, and leaving does not end the others' lookup.
        short, long = await asyncio.gather(one.ask("b.test", timeout_s=0.1), one.ask("b.test", timeout_s=0.2))
        assert short[0] == long[0] == ()


async def test_one_family_that_never_answers_delays_only_a_little() -> None:
    def only_four(query: dns.message.Message) -> dns.message.Message | None:
        return None if query.question[0].rdtype.name == "AAAA" else BOTH(query)  # type: ignore[return-value]

    async with name_server(only_four) as (_, port), asker(port) as one:
        started_s = perf_counter()
        assert hosts_of(await one.ask("shop.test")) == ["192.0.2.1"]
        assert perf_counter() - started_s < 0.3


async def test_truncated_answers_are_fetched_over_tcp() -> None:
    cut = records(flags=dns.flags.TC)
    whole = records(*(f"shop.test. 60 A 192.0.2.{number}" for number in range(1, 101)))
    async with name_server(cut, whole) as (_, port), asker(port) as one:
        found = await one.ask("shop.test", "4")
        assert len(found[0]) == 100, found
        both = await one.ask("shop.test")
        assert len(both[0]) == 100, both
    async with name_server(cut, None) as (_, port), asker(port, attempts=1) as one:
        assert "over TCP" in (await one.ask("shop.test", "4"))[1]


async def test_a_server_without_edns_is_asked_plainly() -> None:
    def old(query: dns.message.Message) -> dns.message.Message:
        if query.edns >= 0:
            answer = dns.message.make_response(query)
            answer.set_rcode(dns.rcode.FORMERR)
            return answer
        return BOTH(query)  # type: ignore[return-value]

    async with name_server(old) as (server, port), asker(port) as one:
        assert hosts_of(await one.ask("shop.test", "4")) == ["192.0.2.1"]
        assert server.edns == [0, -1]


async def test_forged_and_garbled_answers_are_passed_over() -> None:
    class Liar(NameServer):
        def answer(self, query: dns.message.Message, address: tuple[str, int]) -> None:
            send = self.transport.sendto  # type: ignore[attr-defined]
            send(b"", address)
            send(b"\xff" * 100, address)
            forged = dns.message.make_query("shop.test", "A", id=query.id ^ 1)
            send(records("shop.test. 60 A 203.0.113.66")(forged).to_wire(), address)  # type: ignore[union-attr]
            other = dns.message.make_query("bank.test", "A", id=query.id)
            send(records("bank.test. 60 A 203.0.113.66")(other).to_wire(), address)  # type: ignore[union-attr]
            send(BOTH(query).to_wire(), address)  # type: ignore[union-attr]

    loop = asyncio.get_running_loop()
    transport, liar = await loop.create_datagram_endpoint(lambda: Liar(BOTH), local_addr=("127.0.0.1", 0))
    async with asker(transport.get_extra_info("sockname")[1]) as one:
        assert hosts_of(await one.ask("shop.test", "4")) == ["192.0.2.1"]
    transport.close()
    assert isinstance(liar, Liar)


async def test_hosts_come_first_and_files_are_read_again(tmp_path: Path) -> None:
    hosts = tmp_path / "hosts"
    hosts.write_text("192.0.2.5 shop.test\n")
    async with name_server(BOTH) as (server, port), asker(port, hosts=str(hosts)) as one:
        assert hosts_of(await one.ask("shop.test")) == ["192.0.2.5"]
        assert not server.questions
        hosts.write_text("192.0.2.66 shop.test\n")
        one.engine.resolver.refresh()
        assert hosts_of(await one.ask("Shop.Test")) == ["192.0.2.66"]
        assert hosts_of(await one.ask("localhost", "4")) == ["127.0.0.1"]


async def test_cancelled_lookups_leave_nothing() -> None:
    async with name_server(lambda _query: None) as (_, port), asker(port) as one:
        called: list[object] = []
        cancels = [
            one.engine.resolve("shop.test", "auto", perf_counter() + 5, lambda *answer: called.append(answer))
            for _ in range(3)
        ]
        for cancel in cancels:
            cancel()
            cancel()
        assert not one.engine._table
        assert len(one.engine._deadlines) == 0
        assert not called


@pytest.mark.parametrize("name", ["a..b", "x" * 70 + ".test", "\udcff.test"])
async def test_names_that_cannot_be_asked_for(name: str) -> None:
    async with name_server(BOTH) as (server, port), asker(port) as one:
        addresses, message = await one.ask(name)
        assert addresses == ()
        assert message
        assert not server.questions
