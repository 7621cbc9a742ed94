"""Masks: no secret in any of its forms is left in what is kept, however the text was cut into pieces."""

from __future__ import annotations

import base64
import html
import json
import random
import shlex
import time
from urllib.parse import quote, quote_plus, urlencode

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from dogwatch.engine.masks import MASK, Masker

SECRET = "hunt/er+2 'x\"é&ß"
KEY = "-----BEGIN KEY-----\nMIIEvQIBADANBgkqhkiG9w0B\nQEFAASCBKcwggSjAgEAAoIB\n-----END KEY-----\n"


def streamed(masker: Masker, pieces: list[str]) -> str:
    """Mask text that comes in pieces, as the writer of a run's output does."""
    out, held = "", ""
    for piece in pieces:
        text = held + piece
        unsure = masker.unsure(text)
        assert 0 <= unsure <= len(text)
        out += masker.mask(text[: len(text) - unsure])
        held = text[len(text) - unsure :]
    return out + masker.mask(held)


@pytest.mark.parametrize(
    "written",
    [
        SECRET,
        json.dumps(SECRET),
        json.dumps({"token": SECRET}, ensure_ascii=False),
        quote(SECRET),
        quote(SECRET, safe=""),
        quote_plus(SECRET),
        urlencode({"a": SECRET}),
        quote(SECRET, safe="").lower(),
        html.escape(SECRET),
        shlex.quote(SECRET),
        base64.b64encode(SECRET.encode()).decode(),
        base64.urlsafe_b64encode(SECRET.encode()).decode(),
        base64.b64encode(f"user:{SECRET}".encode()).decode(),
        base64.b64encode(f"me:{SECRET}@x".encode()).decode(),
        base64.b64encode(f"a:{SECRET}@xy".encode()).decode(),
        SECRET.encode().hex(),
        SECRET.encode().hex().upper(),
    ],
)
def test_every_way_to_write_a_secret_is_masked(written: str) -> None:
    masked = Masker([SECRET]).mask(f"<{written}>")
    assert MASK in masked
    for form in (SECRET, "hunt", "er+2", "er%2B2", written.strip('"')[3:-3]):
        assert form not in masked
    assert masked.startswith("<")
    assert masked.endswith(">")


def test_lines_of_a_secret_are_masked_one_by_one() -> None:
    masked = Masker([KEY]).mask(f"key is\n  {KEY.splitlines()[1]}\nand {KEY.splitlines()[2]}!")
    assert masked == f"key is\n  {MASK}\nand {MASK}!"
    wrapped = base64.encodebytes((KEY * 3).encode()).decode()
    masked = Masker([KEY * 3]).mask(wrapped)
    assert all(line == MASK or len(line) < 6 for line in masked.splitlines())


def test_text_of_files_is_known_without_its_line_break() -> None:
    assert Masker(["hunter2\n"]).mask("x hunter2 y hunter2\n") == f"x {MASK} y {MASK}"  # with its own line break


def test_short_secrets_are_left_alone() -> None:
    masker = Masker(["abc", " a ", ""])
    assert not masker
    assert masker.mask("abc a") == "abc a"
    assert masker.unsure("abc") == 0


def test_secrets_that_overlap_are_masked_whole() -> None:
    masker = Masker(["secret-one", "one-two", "secret"])
    assert masker.mask("a secret-one-two b") == f"a {MASK} b"
    assert masker.mask("a secret-two b one-tw") == f"a {MASK}-two b one-tw"


def test_values_are_cleaned_through_and_through() -> None:
    masker = Masker(["hunter2", "4711"])
    value = {"a": ["x hunter2", {"hunter2": 4711}], "n": 5, "t": True, "z": None}
    assert masker.clean(value) == {"a": [f"x {MASK}", {MASK: MASK}], "n": 5, "t": True, "z": None}


@pytest.mark.parametrize("secrets", [["hunter2"], ["abcabc"], ["aaaa"], ["abcd", "cdef", "efab"], [KEY], [SECRET]])
def test_a_secret_cut_into_pieces_is_masked(secrets: list[str]) -> None:
    masker = Masker(secrets)
    text = "".join(f"x {value} y{value}{value[:3]}" for value in secrets) + secrets[0]
    for size in range(1, 9):
        pieces = [text[at : at + size] for at in range(0, len(text), size)]
        out = streamed(masker, pieces)
        assert not any(value in out for value in secrets)
        assert out.replace(MASK * 2, MASK).replace(MASK * 2, MASK) == masker.mask(text)


@given(
    secrets=st.lists(st.text("ab1é ", min_size=4, max_size=8), min_size=1, max_size=3),
    data=st.data(),
)
@example(secrets=["abab"], data=None)
def test_pieces_and_the_whole_are_masked_alike(secrets: list[str], data: st.DataObject | None) -> None:
    assume(all(len(value.strip()) >= 4 for value in secrets))
    masker = Masker(secrets)
    if data is None:
        pieces = ["xab", "ab", "aby"]
    else:
        part = st.one_of(st.sampled_from(secrets), st.text("ab1é x", max_size=6))
        text = "".join(data.draw(st.lists(part, max_size=8)))
        cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=5)))
        pieces = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    out = streamed(masker, pieces)
    assert not any(value in out for value in secrets)
    assert squeezed(out) == squeezed(masker.mask("".join(pieces)))


def squeezed(text: str) -> str:
    while MASK * 2 in text:
        text = text.replace(MASK * 2, MASK)
    return text


def test_a_secret_that_repeats_itself_is_not_held_for_ever() -> None:
    masker = Masker(["aaaa"])
    held = ""
    for _ in range(1000):
        text = held + "a" * 7
        held = text[len(text) - masker.unsure(text) :]
        assert len(held) <= 64
    assert masker.mask("a" * 1000) == MASK


def test_big_output_is_masked_fast() -> None:
    chance = random.Random(5)
    words = ["".join(chance.choices("abcdefghijklmnop ", k=60)) for _ in range(1000)]
    text = "\n".join(chance.choices(words, k=35_000))
    masker = Masker([SECRET, "hunter2", *(f"token-{n}-{n * n}" for n in range(10))])
    started = time.perf_counter()
    for at in range(0, len(text), 65536):
        masker.unsure(text[at : at + 65536])
        masker.mask(text[at : at + 65536])
    assert len(text) > 2_000_000
    # 0.2 s on the machine it was written on; the bound is for a busy one.
    assert time.perf_counter() - started < 3
