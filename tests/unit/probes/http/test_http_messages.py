"""Heads, bodies, URLs and requests, without a socket."""

from __future__ import annotations

import gzip
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dogwatch.probes.http.plan import DEFAULT_STATUS, accepted_statuses, parse_statuses
from dogwatch.probes.http.request import build_request, join_url, parse_url
from dogwatch.probes.http.response import Body, Refused, body_of, head_end, parse_head
from dogwatch.probes.http.result import blank, body_text
from dogwatch.probes.kinds.http import BasicAuth, HttpProbe, TlsOptions


@given(st.binary(max_size=400))
def test_any_bytes_are_a_head_or_refused(raw: bytes) -> None:
    raw += b"\r\n\r\n"
    try:
        head = parse_head(raw[: head_end(raw, 0)])
        body_of(head, "GET", 1000, False, 100)
    except Refused as refused:
        assert refused.reason in {"protocol", "too_large"}  # noqa: PT017 - it may as well be accepted


@given(
    st.dictionaries(
        st.from_regex(r"[A-Za-z][A-Za-z0-9-]{0,20}", fullmatch=True),
        st.from_regex(r"[!-~]{0,20}", fullmatch=True),
        max_size=8,
    ),
    st.sampled_from(["\r\n", "\n"]),
)
def test_heads_are_read_as_written(headers: dict[str, str], end: str) -> None:
    lower = {name.lower() for name in headers}
    if len(lower) != len(headers):
        return
    raw = ("HTTP/1.1 204 No Content" + end + "".join(f"{n}:  {v} {end}" for n, v in headers.items()) + end).encode()
    assert head_end(raw + b"rest", 0) == len(raw)
    head = parse_head(raw)
    assert (head.status, head.version) == (204, 1.1)
    assert head.headers == {name.lower(): value for name, value in headers.items()}


def test_repeated_headers() -> None:
    head = parse_head(b"HTTP/1.1 200 OK\r\nVia: a\r\nVia: b\r\nContent-Length: 3\r\nContent-Length: 3\r\n\r\n")
    assert head.headers == {"via": "a, b", "content-length": "3"}


def chunked(pieces: list[bytes]) -> bytes:
    out = b"".join(b"%x;ext=1\r\n%s\r\n" % (len(piece), piece) for piece in pieces if piece)
    return out + b"0\r\nX-Trailer: y\r\n\r\n"


def cut(data: bytes, at: list[int]) -> list[bytes]:
    places = sorted({min(place, len(data)) for place in at})
    edges = [0, *places, len(data)]
    return [data[a:b] for a, b in pairwise(edges) if a < b]


@given(st.lists(st.binary(max_size=50), max_size=6), st.lists(st.integers(0, 500), max_size=20))
def test_chunked_bodies_are_the_same_however_they_arrive(pieces: list[bytes], at: list[int]) -> None:
    body = Body(-1, 10_000, False, 10_000, chunked=True)
    ends = [body.feed(part) for part in cut(chunked(pieces), at)]
    assert ends[-1] is True
    assert not any(ends[:-1])
    assert body.kept == b"".join(pieces)
    assert body.received == len(body.kept)


@given(st.binary(min_size=1, max_size=300), st.lists(st.integers(0, 500), max_size=10), st.integers(1, 200))
def test_limits_hold_however_a_compressed_body_arrives(content: bytes, at: list[int], limit: int) -> None:
    packed = gzip.compress(content * 20)
    head = parse_head(b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n\r\n")
    for truncate in (False, True):
        body = body_of(head, "GET", limit, truncate, 10_000)
        try:
            for part in cut(packed, at):
                if body.feed(part):
                    break
            else:
                body.end()
        except Refused as refused:
            assert (truncate, refused.reason) == (False, "too_large")  # noqa: PT017 - short ones fit the limit
        assert body.decoded <= limit
        assert (content * 20).startswith(bytes(body.kept))


def test_a_body_in_a_million_tiny_chunks_is_refused_soon() -> None:
    body = Body(-1, 1 << 20, False, 1 << 20, chunked=True)
    with pytest.raises(Refused, match="tiny"):
        body.feed(b"1\r\nx\r\n" * 1_000_000)
    assert body.received < 20_000
    wide = Body(-1, 1 << 24, False, 10, chunked=True)
    for _ in range(10):
        wide.feed((b"80\r\n" + b"x" * 128 + b"\r\n") * 10_000)
    assert wide.received == 128 * 100_000


@given(st.binary(max_size=200))
def test_garbage_chunks_are_refused_or_unfinished(data: bytes) -> None:
    body = Body(-1, 1000, False, 100, chunked=True)
    try:
        if not body.feed(data):
            body.end()
    except Refused as refused:
        assert refused.reason in {"protocol", "too_large"}  # noqa: PT017 - it may as well be accepted


@pytest.mark.parametrize(
    ("url", "parts"),
    [
        ("http://shop.example", ("http", "shop.example", 80, "/", "")),
        ("HTTPS://Shop.example:8443/a b".replace(" ", "%20"), ("https", "shop.example", 8443, "/a%20b", "")),
        ("http://[2001:db8::1]:81/?q=1#top", ("http", "2001:db8::1", 81, "/?q=1", "")),
        ("http://anna:p%40ss@h/", ("http", "h", 80, "/", "anna:p@ss")),
        ("https://bücher.example/ä?ö", ("https", "xn--bcher-kva.example", 443, "/%C3%A4?%C3%B6", "")),
    ],
)
def test_urls(url: str, parts: tuple[object, ...]) -> None:
    place = parse_url(url)
    assert (place.scheme, place.host, place.port, place.target, place.auth) == parts


@pytest.mark.parametrize(
    "url",
    [
        "",
        "shop.example",
        "ftp://x/",
        "http://",
        "http://a b/",
        "http://x:0/",
        "http://x:99999/",
        "http://x:y/",
        "http://[::1/",
        "http://a\nb/",
        "http://exa_mple,com/",
    ],
)
def test_malformed_urls_are_faults(url: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_url(url)
    faults = HttpProbe(url=url).faults()
    assert faults
    assert faults[0][0] == ("url",)


@given(st.text(max_size=60))
def test_any_text_is_a_url_or_a_value_error(text: str) -> None:
    for call in (
        lambda: parse_url(text),
        lambda: parse_url("http://" + text),
        lambda: join_url(parse_url("http://h/a/b"), text),
    ):
        try:
            place = call()
        except ValueError:
            continue
        request = build_request(place, "GET", {}, b"", keep_alive=False, foreign=False)
        assert request.count(b"\r\n\r\n") == 1
        assert request.endswith(b"\r\n\r\n")


def test_locations_are_joined() -> None:
    base = parse_url("https://h:444/a/b?x=1")
    assert join_url(base, "../c").url == "https://h:444/c"
    assert join_url(base, "//other/d").url == "https://other/d"
    assert join_url(base, "?y=2").url == "https://h:444/a/b?y=2"
    assert join_url(base, "http://h/with space").url == "http://h/with%20space"


def test_statuses() -> None:
    assert parse_statuses((200, "301-303", "5xx")) == {200, 301, 302, 303, *range(500, 600)}
    for wrong in ("abc", "2x", "600-500", "20", "6xx"):
        with pytest.raises(ValueError, match="not a status"):
            parse_statuses((wrong,))
    assert accepted_statuses(HttpProbe(url="http://h/")) == DEFAULT_STATUS
    assert accepted_statuses(HttpProbe(url="http://h/", expect="status == 404")) is None
    assert accepted_statuses(HttpProbe(url="http://h/", degraded_if="status == 404")) == DEFAULT_STATUS
    assert accepted_statuses(HttpProbe(url="http://h/", expect="statuses")) == DEFAULT_STATUS


@pytest.mark.parametrize(
    ("options", "path"),
    [
        ({"method": "get"}, ("method",)),
        ({"method": "G T"}, ("method",)),
        ({"method": "CONNECT"}, ("method",)),
        ({"headers": {"a b": "x"}}, ("headers", "a b")),
        ({"headers": {"X": "a\r\nY: b"}}, ("headers", "X")),
        ({"bearer": "x", "basic_auth": BasicAuth(username="u")}, ("bearer",)),
        ({"fail_if_tls": True, "fail_if_not_tls": True}, ("fail_if_tls",)),
        ({"tls": TlsOptions(key_file="k")}, ("tls", "key_file")),
        ({"tls": TlsOptions(min_version="1.3", max_version="1.2")}, ("tls", "min_version")),
        ({"proxy": "gopher://x"}, ("proxy",)),
        ({"http_version": "3"}, ("http_version",)),
        ({"source_address": "eth0"}, ("source_address",)),
        ({"redirect_limit": -1}, ("redirect_limit",)),
        ({"status": ("9xx",)}, ("status",)),
        ({"accept_versions": ("two",)}, ("accept_versions",)),
    ],
)
def test_faults(options: dict[str, object], path: tuple[str, ...]) -> None:
    found = HttpProbe(url="http://shop.example/", **options).faults()  # type: ignore[arg-type]
    assert [fault[0] for fault in found] == [path]
    assert HttpProbe(url="http://shop.example/").faults() == []
    assert HttpProbe(url="http://192.0.2.1/", ip_version=6).faults()[0][0] == ("ip_version",)


def test_the_address_shows_no_password() -> None:
    assert HttpProbe(url="https://anna:geheim@h/x").address() == "https://h/x"
    assert "geheim" not in HttpProbe(url="https://anna:geheim@[bad/x").address()


def test_text_and_blanking() -> None:
    assert body_text({"content-type": "text/html; charset=iso-8859-1"}, b"gr\xfc\xdfe") == "grüße"
    assert body_text({"content-type": "text/html; charset=no-such"}, "grüße".encode()) == "grüße"
    assert body_text({}, b"\xff") == "\ufffd"
    assert blank("a secret here", ("secret",)) == "a *** here"


def test_every_metric_is_a_variable() -> None:
    assert set(HttpProbe.metrics) <= set(HttpProbe.variables)
