"""Addresses, resolver files and deadlines: what the engine decides without a socket."""

from __future__ import annotations

import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dogwatch.probes.engine.addresses import in_order, ip_hash, literal, socket_address
from dogwatch.probes.engine.deadlines import BUCKETS_PER_S, NEVER, Deadlines
from dogwatch.probes.engine.lookup import candidates
from dogwatch.probes.engine.resolvconf import parse_hosts, parse_resolv_conf

V4, V6 = int(socket.AF_INET), int(socket.AF_INET6)


def test_literals() -> None:
    assert literal("192.0.2.1") == (V4, "192.0.2.1")
    assert literal("2001:db8::1") == (V6, "2001:db8::1")
    assert literal("fe80::1%lo") == (V6, "fe80::1%lo")
    assert socket_address((V6, "fe80::1%lo"), 80) == ("fe80::1", 80, 0, socket.if_nametoindex("lo"))
    for name in ("shop.example", "1.2.3", "1.2.3.4.5", "::g", ""):
        assert literal(name) is None


@pytest.mark.parametrize(
    ("family", "expected"),
    [
        ("4", ["a", "b"]),
        ("6", ["x", "y", "z"]),
        ("auto", ["x", "a", "y", "b", "z"]),
        ("4?", ["a", "b"]),
        ("6?", ["x", "y", "z"]),
    ],
)
def test_order_of_addresses(family: str, expected: list[str]) -> None:
    assert [host for _, host in in_order(("a", "b"), ("x", "y", "z"), family)] == expected
    only_four = [host for _, host in in_order(("a",), (), family)]
    assert only_four == ([] if family == "6" else ["a"])


def test_hash_is_that_of_blackbox_exporter() -> None:
    # FNV-1a, 32 bits, of 7f 00 00 01.
    value = 0x811C9DC5
    for byte in (127, 0, 0, 1):
        value = ((value ^ byte) * 16777619) % 2**32
    assert ip_hash((V4, "127.0.0.1")) == value


def test_resolv_conf() -> None:
    config = parse_resolv_conf(
        "# comment\nnameserver 192.0.2.53\nnameserver ::1 ; other\nnameserver nonsense\nnameserver 127.0.0.1:5353\n"
        "nameserver 192.0.2.54\nsearch a.example b.example\noptions ndots:2 timeout:3 attempts:9 rotate\nnonsense\n"
    )
    assert config.servers == (("192.0.2.53", 53), ("::1", 53), ("127.0.0.1", 5353))
    assert (config.search, config.ndots, config.timeout_s, config.attempts, config.rotate) == (
        ("a.example", "b.example"),
        2,
        3.0,
        5,
        True,
    )
    assert parse_resolv_conf("").servers == (("127.0.0.1", 53),)


@given(st.text(max_size=200))
def test_any_text_is_a_resolver_file(text: str) -> None:
    assert parse_resolv_conf(text).servers
    parse_hosts(text)


def test_hosts() -> None:
    hosts = parse_hosts("127.0.0.1 localhost Shop.Example # x\n::1 localhost\nbad line\n10.0.0.1 shop.example\n")
    assert hosts == {
        "localhost": (("127.0.0.1",), ("::1",)),
        "shop.example": (("127.0.0.1", "10.0.0.1"), ()),
    }


@pytest.mark.parametrize(
    ("name", "ndots", "expected"),
    [
        ("db", 1, ["db.a.test", "db.b.test", "db"]),
        ("db.shop", 1, ["db.shop", "db.shop.a.test", "db.shop.b.test"]),
        ("db.shop", 2, ["db.shop.a.test", "db.shop.b.test", "db.shop"]),
        ("db.", 1, ["db."]),
    ],
)
def test_search_list(name: str, ndots: int, expected: list[str]) -> None:
    assert candidates(name, ("a.test", "b.test."), ndots) == expected


class Item:
    def __init__(self, log: list[str], name: str, then: object = None) -> None:
        self.log, self.name, self.then = log, name, then

    def expire(self) -> None:
        self.log.append(self.name)
        if callable(self.then):
            self.then()


def test_deadlines_expire_in_time_and_never_early() -> None:
    log: list[str] = []
    deadlines = Deadlines()
    deadlines.add(5.0, Item(log, "five"))
    deadlines.add(3.0, Item(log, "three"))
    dropped = Item(log, "dropped")
    deadlines.discard(deadlines.add(2.0, dropped), dropped)
    assert deadlines.next_bucket() == 3 * BUCKETS_PER_S + 1
    deadlines.expire(3.0)
    assert log == []
    deadlines.expire(3.0 + 0.0101)
    assert log == ["three"]
    deadlines.expire(100.0)
    assert log == ["three", "five"]
    assert deadlines.next_bucket() == NEVER
    assert len(deadlines) == 0


def test_an_item_that_another_ones_end_takes_away_does_not_expire() -> None:
    log: list[str] = []
    deadlines = Deadlines()
    second = Item(log, "second")
    first = Item(log, "first", lambda: deadlines.discard(bucket, second))
    second.then = lambda: deadlines.discard(bucket, first)
    bucket = deadlines.add(1.0, first)
    assert deadlines.add(1.0, second) == bucket
    deadlines.expire(2.0)
    assert len(log) == 1
