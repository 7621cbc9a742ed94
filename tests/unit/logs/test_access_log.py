"""Access logs as servers write them: what clients sent, however odd, is read, and nothing is made up."""

from __future__ import annotations

from typing import Any

import pytest

from dogwatch.logs.block import Block
from dogwatch.logs.frames import to_frame
from dogwatch.logs.records import records
from dogwatch.logs.steps import through
from dogwatch.logs.transforms.parse import JsonTransform, NginxTransform

WHEN = "21/Nov/2026:07:00:00 +0000"
BEGIN = f"10.0.0.1 - - [{WHEN}]"
PLAIN = f'{BEGIN} "GET / HTTP/1.1" 200 5 "-" "curl/8"'
GET = {"method": "GET", "path": "/", "protocol": "HTTP/1.1"}
ASKED = {"remote_addr": "10.0.0.1", "remote_user": "-", "time_local": WHEN, "status": 200, "body_bytes_sent": 5}
SAID = {"http_referer": "-", "http_user_agent": "curl/8"}


def usual(**more: object) -> dict[str, Any]:
    """Return the fields of a usual line, with others; None for one that it has not."""
    return {name: value for name, value in {**ASKED, **GET, **SAID, **more}.items() if value is not None}


# What is in the line → the fields that it has; None where it is no line of an access log.
CASES: dict[str, tuple[str, dict[str, Any] | None]] = {
    "combined": (PLAIN, usual()),
    "common": (f'{BEGIN} "GET / HTTP/1.1" 200 5', {**ASKED, **GET}),
    "main, as nginx is shipped": (
        f'{PLAIN} "203.0.113.9, 10.1.1.1"',
        usual(http_x_forwarded_for="203.0.113.9, 10.1.1.1"),
    ),
    "main without a proxy": (f'{PLAIN} "-"', usual(http_x_forwarded_for="-")),
    "proxies with IPv6": (f'{PLAIN} "2001:db8::7"', usual(http_x_forwarded_for="2001:db8::7")),
    "a ratio of compression behind it": (f'{PLAIN} "3.26"', usual()),
    "times behind it": (f"{PLAIN} 0.005 0.004 .", usual()),
    "an IPv6 client": (PLAIN.replace("10.0.0.1", "2001:db8::1"), usual(remote_addr="2001:db8::1")),
    "a socket": (PLAIN.replace("10.0.0.1", "unix:"), usual(remote_addr="unix:")),
    "a user": (PLAIN.replace("- -", "- bob"), usual(remote_user="bob")),
    "a user with spaces": (PLAIN.replace("- -", "- bob de la x"), usual(remote_user="bob de la x")),
    "no length": (PLAIN.replace(" 5 ", " - "), usual(body_bytes_sent=None)),
    "a handshake of TLS": (
        f'{BEGIN} "\\x16\\x03\\x01\\x02\\x00\\x01" 200 5 "-" "curl/8"',
        {**ASKED, **SAID, "request": "\\x16\\x03\\x01\\x02\\x00\\x01"},
    ),
    "bytes that are no text": (f'{BEGIN} "\x16\x03é" 200 5 "-" "curl/8"', {**ASKED, **SAID, "request": "\x16\x03é"}),
    "an empty request": (f'{BEGIN} "" 200 5 "-" "curl/8"', {**ASKED, **SAID, "request": ""}),
    "a client that hung up": (f'{BEGIN} "-" 200 5 "-" "curl/8"', {**ASKED, **SAID, "request": "-"}),
    "the preface of HTTP/2": (
        f'{BEGIN} "PRI * HTTP/2.0" 200 5 "-" "curl/8"',
        {**ASKED, **SAID, "method": "PRI", "path": "*", "protocol": "HTTP/2.0"},
    ),
    "HTTP/0.9": (f'{BEGIN} "GET /" 200 5 "-" "curl/8"', {**ASKED, **SAID, "request": "GET /"}),
    "HTTP/3": (PLAIN.replace("1.1", "3.0"), usual(protocol="HTTP/3.0")),
    "a proxy's CONNECT": (
        f'{BEGIN} "CONNECT a.example:443 HTTP/1.1" 200 5 "-" "curl/8"',
        usual(method="CONNECT", path="a.example:443"),
    ),
    "spaces in the path": (PLAIN.replace("/ H", "/a b c H"), usual(path="/a b c")),
    "two spaces": (PLAIN.replace("/ H", " H"), usual(path="")),
    "quotes as nginx writes them": (PLAIN.replace("/8", "\\x22x\\x22"), usual(http_user_agent="curl\\x22x\\x22")),
    "quotes as Apache writes them": (PLAIN.replace("/8", ' \\"x\\"'), usual(http_user_agent='curl \\"x\\"')),
    "a quote in the path": (PLAIN.replace("/ H", '/\\" H'), usual(path='/\\"')),
    "a backslash at the end": (PLAIN.replace("/8", "\\\\"), usual(http_user_agent="curl\\\\")),
    "an end that never comes": (PLAIN[:-1] + '\\"', {**ASKED, **GET}),
    "another method": (PLAIN.replace("GET", "PROPFIND"), usual(method="PROPFIND")),
    "an empty agent": (PLAIN.replace("curl/8", ""), usual(http_user_agent="")),
    "a status that is none": (PLAIN.replace(" 200 ", " 2000 "), None),
    "no time": (PLAIN.replace("[", "("), None),
    "something else": ("2026/11/21 07:00:00 [error] 7#7: *1 open() failed", None),
}  # fmt: skip


def after(lines: list[str]) -> list[dict[str, Any]]:
    data = "".join(line + "\n" for line in lines).encode()
    block = Block(source="s", stream="f", path="/p", begin=0, end=len(data), data=data, count=len(lines))
    found = records(through(block, [NginxTransform().open()]))
    return [{k: v for k, v in one.items() if k not in ("id", "source", "file")} for one in found]


@pytest.fixture(scope="module", autouse=True)
def _polars() -> None:
    """The library's own runtime begins with the first frame and lasts as long as the process."""
    columns(["a"])


def columns(lines: list[str]) -> list[dict[str, Any]]:
    data = "".join(line + "\n" for line in lines).encode()
    block = Block(source="s", stream="f", path="/p", begin=0, end=len(data), data=data, count=len(lines))
    frame = NginxTransform().open().apply(to_frame(block))
    kept = frame.select([name for name in frame.columns if not name.startswith("@")])
    return [{k: v for k, v in row.items() if v is not None} for row in kept.iter_rows(named=True)]


@pytest.mark.parametrize("case", CASES)
def test_each_line_is_read(case: str) -> None:
    line, fields = CASES[case]
    wanted = {"message": line} if fields is None else fields
    assert after([line]) == [wanted]
    # Among others it may be read another way.
    assert after([PLAIN, line, PLAIN])[1] == wanted
    assert after([line, line]) == [wanted, wanted]


def test_columns_say_the_same() -> None:
    wanted = [{"message": line} if fields is None else fields for line, fields in CASES.values()]
    assert columns([line for line, _fields in CASES.values()]) == wanted


def test_a_log_in_json_is_read_by_json() -> None:
    line = (
        '{"time":"2026-11-21T07:00:00+00:00","remote_addr":"2001:db8::1","request":"GET /\\"a HTTP/1.1","status":200,'
        '"agent":"x\\u0016\\u0003"}'
    )
    data = line.encode() + b"\n"
    block = Block(source="s", stream="f", path="/p", begin=0, end=len(data), data=data, count=1)
    (one,) = records(through(block, [JsonTransform().open()]))
    assert (one["status"], one["request"], one["agent"]) == (200, 'GET /"a HTTP/1.1', "x\x16\x03")


def test_a_line_of_nothing_but_digits_and_letters_takes_no_time() -> None:
    # An expression that tries again would take minutes for these.
    forwarded = "1." * 200_000
    assert after([f'{PLAIN} "{forwarded}"'])[0]["status"] == 200
    (one,) = after([f'{BEGIN} "GET {"A " * 200_000}" 200 5'])
    assert one["request"].startswith("GET A A")
    assert after([f'{BEGIN} "{"x" * 400_000}'])[0]["message"].startswith(BEGIN)
    assert after(["a " * 200_000])[0]["message"].startswith("a a")
