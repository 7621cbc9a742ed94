"""The `server:` section."""

from __future__ import annotations

import subprocess
import sys

import msgspec
import pytest

from dogwatch.web.options import SECTION, WebOptions, is_loopback, parse_listen


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("127.0.0.1:8410", ("127.0.0.1", 8410)),
        ("[::1]:80", ("::1", 80)),
        (":8410", ("", 8410)),
        ("watch.example:1", ("watch.example", 1)),
    ],
)
def test_listen(text: str, found: tuple[str, int]) -> None:
    assert parse_listen(text) == found


@pytest.mark.parametrize("text", ["", "8410", "127.0.0.1", "::1:80", "a:70000", "a:-1", "a:٣"])
def test_listen_refuses(text: str) -> None:
    with pytest.raises(ValueError, match="8410"):
        parse_listen(text)


def test_defaults_have_no_faults() -> None:
    assert list(SECTION.check(SECTION.default())) == []


@pytest.mark.parametrize(
    ("change", "path"),
    [
        ({"listen": "nowhere"}, ("listen",)),
        ({"external_url": "watch.example"}, ("external_url",)),
        ({"external_url": "https://watch.example/sub/"}, ("external_url",)),
        ({"streams": 300}, ("streams",)),
    ],
)
def test_faults(change: dict[str, object], path: tuple[str, ...]) -> None:
    options = msgspec.structs.replace(WebOptions(), **change)
    assert [fault.path for fault in SECTION.check(options)] == [path]


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST.", "a.localhost", "127.3.2.1", "::1", "::ffff:127.0.0.1"])
def test_loopback(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize("host", ["", "localhost.example", "10.0.0.1", "127.0.0.1.example", "0.0.0.0", "evil"])
def test_not_loopback(host: str) -> None:
    assert not is_loopback(host)


def test_options_load_no_web_framework() -> None:
    code = (
        "import dogwatch.web.options, sys; sys.exit(any(m in sys.modules for m in ('litestar', 'uvicorn', 'jinja2')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
