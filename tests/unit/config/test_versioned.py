"""State documents with a version."""

import msgspec
import pytest

from dogwatch.config.versioned import Builtins, Versioned
from dogwatch.errors import PermanentError, StoreNewer


class State(msgspec.Struct):
    hosts: list[str]
    seen: int = 0


def rename(document: Builtins) -> Builtins:
    return {"hosts": [document["host"]]}


def count(document: Builtins) -> Builtins:
    return {**document, "seen": 1}


STATE = Versioned("probe state", State, [rename, count])


def test_what_is_written_is_read() -> None:
    data = STATE.encode(State(hosts=["a"], seen=5))
    assert msgspec.json.decode(data)["version"] == 3
    assert STATE.decode(data, file="f") == State(hosts=["a"], seen=5)


@pytest.mark.parametrize(
    "data", [b'{"version": 1, "host": "a"}', b'{"version": 2, "hosts": ["a"]}', b'{"version":3,"hosts":["a"],"seen":1}']
)
def test_older_versions_are_migrated(data: bytes) -> None:
    assert STATE.decode(data, file="f") == State(hosts=["a"], seen=1)


def test_a_newer_version_is_refused_with_what_to_do() -> None:
    with pytest.raises(
        StoreNewer, match=r"cannot open f: probe state of version 4, this Dogwatch reads up to 3"
    ) as caught:
        STATE.decode(b'{"version": 4, "anything": []}', file="f")
    assert "newer" in caught.value.hint


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"[]",
        b"{}",
        b'{"version": "1"}',
        b'{"version": 0}',
        b'{"version": 3}',
        b'{"version": 1}',
        b"\xff",
        b'"\xff"',
    ],
)
def test_damage_is_named(data: bytes) -> None:
    with pytest.raises(PermanentError, match="cannot read f: probe state"):
        STATE.decode(data, file="f")
