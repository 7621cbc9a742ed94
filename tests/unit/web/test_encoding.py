"""JSON of text that cannot be UTF-8."""

from __future__ import annotations

import json

import msgspec
import pytest

from dogwatch.core.values import Event, Status, Transition
from dogwatch.store.protocol import ResultRow
from dogwatch.web import bars, events, listing
from dogwatch.web.encoding import encode_json, proper


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("plain", "plain"),
        ("größe 数据 😀", "größe 数据 😀"),
        ("a\ud800b", "a\ufffdb"),
        ("\udcff\udcfe", "\ufffd\ufffd"),
    ],
)
def test_lone_surrogates_are_replaced_and_nothing_else(text: str, clean: str) -> None:
    assert proper(text) == clean


class Thing(msgspec.Struct):
    name: str
    inside: dict[str, list[str]]


def test_surrogates_anywhere_become_replacement_characters() -> None:
    content = encode_json(Thing("\ud800", {"k\udc00": ["x\udfff", "fine"]}))
    assert json.loads(content) == {"name": "\ufffd", "inside": {"k\ufffd": ["x\ufffd", "fine"]}}


def test_what_json_has_no_form_for_goes_through_the_hook() -> None:
    assert json.loads(encode_json({"at": 1 + 2j})) == {"at": "(1+2j)"}
    assert json.loads(encode_json({"at": 1 + 2j, "name": "\ud800"})) == {"at": "(1+2j)", "name": "\ufffd"}


def test_events_bars_and_cursors_bear_surrogates() -> None:
    transition = Transition(target="a", time_s=1.0, before=Status.UP, after=Status.DOWN, reason="said \udcff")
    content = events.encode(Event(topic="transition", time_s=1.0, data=transition), 1)
    assert "said \ufffd" in content.decode()
    row = ResultRow("a", 1.0, False, 3, 0.1, reason="\udcff")
    assert "\ufffd" in bars.draw([row], 10).data
    assert listing.encode_cursor(0, "\ud800")
