"""Hosts that ended alike are told as one, and what is another thing for each of them is not left out."""

from __future__ import annotations

from dogwatch.fleet.connection import State
from dogwatch.fleet.results import HostResult, gather


def failed(host: str, state: State, message: str) -> HostResult:
    return HostResult(host=host, state=state, message=message)


def test_names_addresses_and_numbers_are_no_differences() -> None:
    results = [failed(f"web{at}", State.REFUSED, f"10.0.0.{at}:22 refuses connections") for at in range(1, 4)]
    results += [failed(f"db{at}", State.REFUSED, f"db{at}:2{at} refuses connections") for at in range(1, 4)]
    [group] = gather(results)
    assert group.messages == ("10.0.0.1:22 refuses connections",)
    assert len(group.hosts) == 6


def test_keys_of_hosts_are_told_one_by_one() -> None:
    results = [
        failed("web1", State.UNKNOWN_HOST_KEY, "web1 is not in known_hosts: SHA256:aaa1"),
        failed("web2", State.UNKNOWN_HOST_KEY, "web2 is not in known_hosts: SHA256:aab2"),
        failed("web3", State.UNKNOWN_HOST_KEY, "web3 is not in known_hosts: SHA256:aaa1"),
    ]
    [group] = gather(results)
    assert group.messages == (results[0].message, results[1].message)


def test_reasons_of_what_is_misconfigured_are_told() -> None:
    results = [
        failed("a", State.MISCONFIGURED, "cannot connect to a: /k: no such file"),
        failed("b", State.MISCONFIGURED, "'x' is not a port"),
        failed("c", State.MISCONFIGURED, "'x' is not a port"),
    ]
    [group] = gather(results)
    assert group.messages == (results[0].message, results[1].message)
    assert group.sample is results[0]
