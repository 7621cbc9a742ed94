"""How targets that are typed become probes."""

from __future__ import annotations

import pytest

from dogwatch.cli.adhoc import is_ad_hoc, parse
from dogwatch.cli.run import summary
from dogwatch.errors import UsageError
from dogwatch.probes.adhoc import build_probe
from dogwatch.probes.kinds import PROBES


@pytest.mark.parametrize(
    ("text", "kind", "options"),
    [
        ("https://a/x?q=1", "http", {"url": "https://a/x?q=1"}),
        ("HTTP://a/", "http", {"url": "HTTP://a/"}),
        ("ws://a/x", "websocket", {"url": "ws://a/x"}),
        ("wss://a/x", "websocket", {"url": "wss://a/x"}),
        ("tcp://db:5432", "tcp", {"host": "db:5432"}),
        ("db:5432", "tcp", {"host": "db:5432"}),
        ("[::1]:22", "tcp", {"host": "[::1]:22"}),
        ("tls://a:443?min_days=14", "tls", {"host": "a:443", "min_days": 14}),
        ("icmp://10.0.0.1", "icmp", {"host": "10.0.0.1"}),
        ("icmp://[::1]", "icmp", {"host": "[::1]"}),
        ("ping://gateway?count=3&interval=10ms", "icmp", {"host": "gateway", "count": 3, "interval": 0.01}),
        ("dns://example.org", "dns", {"name": "example.org", "server": ""}),
        ("dns://9.9.9.9/example.org?type=MX", "dns", {"name": "example.org", "server": "9.9.9.9", "type": "MX"}),
        ("grpc://a:50051", "grpc", {"host": "a:50051", "tls": False}),
        ("grpc://a:50051/shop.Cart", "grpc", {"host": "a:50051", "service": "shop.Cart"}),
        ("docker://queue?condition=healthy", "docker", {"container": "queue", "condition": "healthy"}),
        ("exec://sh -c 'exit 3?'", "exec", {"args": ("sh", "-c", "exit 3?")}),
    ],
)
def test_what_is_typed_becomes_a_probe(text: str, kind: str, options: dict[str, object]) -> None:
    assert is_ad_hoc(text)
    job = parse(text, PROBES)
    assert job.kind == kind
    probe = build_probe(PROBES, job.kind, job.options, job.typed)
    assert {name: getattr(probe, name) for name in options} == options


def test_every_kind_but_heartbeat_can_be_typed() -> None:
    for kind in PROBES:
        if kind.kind == "heartbeat":
            with pytest.raises(UsageError, match="cannot be run from here"):
                parse("heartbeat://1h", PROBES)
        else:
            assert parse(f"{kind.kind}://x", PROBES).kind == kind.kind


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("::1", r"'::1' says no port"),
        ("htps://a", "unknown kind"),
        ("tcp://", "names nothing"),
        ("exec://a 'b", "not a command line"),
    ],
)
def test_mistakes(text: str, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        parse(text, PROBES)


def test_a_name_is_no_address() -> None:
    assert [is_ad_hoc(text) for text in ("shop", "orders database", "a:b", ":80")] == [False] * 4


def test_the_summary_counts_only_what_succeeded() -> None:
    rows = [{"success": number != 4, "duration_s": number / 1000} for number in range(1, 6)]
    assert summary(rows) == "5 attempts, 4 ok, 1 failed; min/median/p95/max 1.0/2.5/5.0/5.0 ms"
    assert summary(rows[3:4]) == "1 attempt, 0 ok, 1 failed"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("https://ann:pa%20ss@a/x", "https://ann:***@a/x"),
        ("https://ann:p@ss@a/", "https://ann:***@a/"),
        ("https://:p@a/", "https://:***@a/"),
        ("https://ann@a/x:y@z", "https://ann@a/x:y@z"),
        ("tcp://[::1]:22", "tcp://[::1]:22"),
    ],
)
def test_a_password_that_is_typed_is_not_printed(text: str, shown: str) -> None:
    assert parse(text, PROBES).shown == shown
