"""How much one caller may ask for."""

from __future__ import annotations

from dogwatch.access.actor import Actor
from dogwatch.access.identity import NO_RIGHTS, Identity, anonymous
from dogwatch.web import rates
from dogwatch.web.options import RateOptions
from dogwatch.web.rates import Rates


def user(name: str, address: str = "192.0.2.1") -> Identity:
    return Identity(actor=Actor(kind="user", name=name, address=address), rights=NO_RIGHTS, how="token")


def test_each_caller_has_its_own_and_gets_it_back() -> None:
    one = Rates(RateOptions(max=3, per=6.0))
    asked = [one.wait_s(user("ann"), "/api/v1/targets", 100.0, forwarded=False) for _ in range(4)]
    assert asked[:3] == [0, 0, 0]
    assert asked[3] == 2.0
    assert one.wait_s(user("bob"), "/api/v1/targets", 100.0, forwarded=False) == 0
    # Another address is the same user; nobody known is their address.
    assert one.wait_s(user("ann", "192.0.2.9"), "/", 100.0, forwarded=False) > 0
    assert [one.wait_s(anonymous("192.0.2.7"), "/", 100.0, forwarded=False) > 0 for _ in range(4)][-2:] == [False, True]
    assert one.wait_s(user("ann"), "/", 102.1, forwarded=False) == 0


def test_what_does_not_count() -> None:
    one = Rates(RateOptions(max=1, per=60.0))
    for path in ("/ping/x", "/hooks/x", "/static/1/x.js", "/healthz", "/readyz"):
        assert all(one.wait_s(user("ann"), path, 1.0, forwarded=False) == 0 for _ in range(5))
    assert all(one.wait_s(user("ann", "127.0.0.1"), "/", 1.0, forwarded=False) == 0 for _ in range(5))
    # Through a proxy on this machine it does count, for whoever is known.
    asked = [one.wait_s(user("ann", "127.0.0.1"), "/", 1.0, forwarded=True) > 0 for _ in range(2)]
    assert asked == [False, True]
    assert all(one.wait_s(anonymous("127.0.0.1"), "/", 1.0, forwarded=True) == 0 for _ in range(5))


def test_callers_are_bounded() -> None:
    one = Rates(RateOptions(max=1, per=60.0))
    for at in range(rates._CALLERS + 10):
        one.wait_s(user(f"u{at}"), "/", 1.0, forwarded=False)
    assert len(one._buckets) == rates._CALLERS
