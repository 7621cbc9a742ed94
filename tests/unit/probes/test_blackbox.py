"""blackbox_exporter's module format: accepted whole, and every mistake or gap named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from dogwatch.config.load import Loader
from dogwatch.config.section import Included
from dogwatch.config.show import rows
from dogwatch.errors import ConfigError, UsageError
from dogwatch.probes.blackbox import MODULES, Blackbox, load_modules, timeout_of
from dogwatch.probes.blackbox_files import read_text
from dogwatch.probes.blackbox_format import ProxyOptions
from dogwatch.probes.blackbox_metrics import cipher_name
from dogwatch.probes.blackbox_modules import (
    Module,
    check_modules,
    default_modules,
    read_module,
)
from dogwatch.probes.blackbox_proxy import proxy_of
from dogwatch.probes.blackbox_reader import parse_go_duration, parse_limit
from dogwatch.probes.blackbox_translate import translate
from dogwatch.probes.env import new_env
from dogwatch.probes.kinds import PROBES

CASES = Path(__file__).parents[2] / "cases" / "blackbox"


def module(**fields: object) -> Module:
    found, faults = read_module("m", fields)
    assert not faults, faults
    assert found is not None
    return found


def test_the_default_modules_are_those_of_the_example_file() -> None:
    assert {"http_2xx", "http_post_2xx", "tcp_connect", "pop3s_banner", "ssh_banner", "irc_banner", "icmp"} < set(
        default_modules()
    )


@pytest.mark.parametrize(
    ("value", "path", "message"),
    [
        ({"prober": "htp"}, ("prober",), "unknown prober"),
        ({}, ("prober",), "missing"),
        ([], (), "mapping"),
        ({"prober": "http", "timeout": "5"}, ("timeout",), "not a duration"),
        ({"prober": "http", "tiemout": "5s"}, ("tiemout",), "unknown option"),
        ({"prober": "http", "http": {"metod": "GET"}}, ("http", "metod"), "unknown option"),
        ({"prober": "http", "http": {"tls_config": {"nope": 1}}}, ("http", "tls_config", "nope"), "unknown option"),
        (
            {"prober": "http", "http": {"valid_status_codes": ["x"]}},
            ("http", "valid_status_codes", 0),
            "a whole number",
        ),
        (
            {"prober": "http", "http": {"fail_if_body_matches_regexp": ["ok", "["]}},
            ("http", "fail_if_body_matches_regexp", 1),
            "missing ]",
        ),
        (
            {"prober": "http", "http": {"fail_if_header_matches": [{"header": "a", "regexp": "("}]}},
            ("http", "fail_if_header_matches", 0, "regexp"),
            "missing )",
        ),
        (
            {"prober": "http", "http": {"fail_if_body_json_matches_cel": "bdy"}},
            ("http", "fail_if_body_json_matches_cel"),
            "bdy",
        ),
        ({"prober": "http", "http": {"body_size_limit": "ten"}}, ("http", "body_size_limit"), "not a size"),
        (
            {"prober": "tcp", "tcp": {"query_response": [{"expct": "x"}]}},
            ("tcp", "query_response", 0, "expct"),
            "unknown",
        ),
        (
            {"prober": "tcp", "tcp": {"tls_config": {"min_version": "TLS9"}}},
            ("tcp", "tls_config", "min_version"),
            "TLS9",
        ),
        ({"prober": "dns", "dns": {}}, ("dns", "query_name"), "missing"),
        ({"prober": "http", "http": {"oauth2": {"client_id": "x"}}}, ("http", "oauth2"), "token_url"),
    ],
)
def test_a_mistake_or_gap_is_named(value: object, path: tuple[str | int, ...], message: str) -> None:
    found, faults = read_module("m", value)
    assert found is None
    assert [fault.path for fault in faults] == [path]
    assert message in faults[0].message
    assert [fault.path for fault in check_modules({"m": value})] == [("m", *path)]


def loader(folder: Path, text: str) -> Loader:
    (folder / "dogwatch.yaml").write_text(text)
    return Loader([folder / "dogwatch.yaml"], [MODULES], environ={})


def test_a_file_says_file_and_line(tmp_path: Path) -> None:
    file = tmp_path / "blackbox.yml"
    file.write_text("modules:\n  a:\n    prober: http\n    http:\n      metod: GET\n  b:\n    prober: smtp\n")
    with pytest.raises(ConfigError) as caught:
        loader(tmp_path, "modules:\n  file: blackbox.yml\n  c: {prober: tpc}\n").load()
    assert str(caught.value).splitlines() == [
        f"{tmp_path}/dogwatch.yaml:3: modules.c.prober: unknown prober 'tpc'; did you mean 'tcp'?",
        f"{file}:5: modules.a.http.metod: unknown option; did you mean 'method'?",
        f"{file}:7: modules.b.prober: unknown prober 'smtp'; known: dns, grpc, http, icmp, tcp, unix, websocket",
    ]


@pytest.mark.parametrize(
    "text", ["", "- a\n", "modules: 3\n", "modules: {a: &x [*x]}\n", "a: b: c\n", "\x00", "modules:\n\t- x"]
)
def test_a_file_that_is_no_module_file_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "blackbox.yml").write_text(text)
    with pytest.raises(ConfigError, match=r"blackbox\.yml"):
        loader(tmp_path, "modules: {file: blackbox.yml}\n").load()


def test_files_and_inline_modules_join_and_inline_wins(tmp_path: Path) -> None:
    (tmp_path / "a.yml").write_text("modules: {x: {prober: icmp}, y: {prober: icmp}}\n")
    (tmp_path / "b.yml").write_text("modules: {z: {prober: tcp}}\n")
    loaded = loader(tmp_path, "modules: {file: [a.yml, b.yml], y: {prober: tcp}}\n").load()
    modules = load_modules(loaded.get(MODULES))
    assert {name: one.prober for name, one in modules.items()} == {"x": "icmp", "y": "tcp", "z": "tcp"}
    assert {tmp_path / "a.yml", tmp_path / "b.yml"} <= set(loaded.parsed.watched)
    assert [row.value for row in rows(loaded) if row.path == "modules.file"] == [["a.yml", "b.yml"]]


def test_a_changed_module_file_changes_the_digest(tmp_path: Path) -> None:
    file = tmp_path / "a.yml"
    file.write_text("modules: {x: {prober: icmp}}\n")
    load = loader(tmp_path, "modules: {file: a.yml}\n")
    before = load.parse().digest
    assert load.parse().digest == before
    file.write_text("modules: {x: {prober: tcp}}\n")
    assert load.parse().digest != before


@pytest.mark.parametrize("written", ["nope.yml", "[a.yml, nope.yml]", "''"])
def test_a_module_file_that_is_not_there_is_named_once_with_its_place(written: str, tmp_path: Path) -> None:
    (tmp_path / "a.yml").write_text("modules: {}\n")
    with pytest.raises(ConfigError) as caught:
        loader(tmp_path, f"modules:\n  file: {written}\n").load()
    (found,) = caught.value.problems
    assert found.line == 2
    assert found.path.startswith("modules.file")


def test_a_module_may_be_called_file(tmp_path: Path) -> None:
    loaded = loader(tmp_path, "modules: {file: {prober: tcp}}\n").load()
    assert list(load_modules(loaded.get(MODULES))) == ["file"]


@pytest.mark.parametrize(
    ("options", "target", "expected"),
    [
        ({}, "shop.example/health", {"url": "http://shop.example/health", "ip_version": "6", "ip_fallback": True}),
        ({"preferred_ip_protocol": "ip4"}, "https://shop.example", {"ip_version": "4"}),
        ({}, "https://192.0.2.1:8443/", {"ip_version": "auto"}),
        ({}, "http://[::1]:80/", {"ip_version": "auto"}),
        ({"no_follow_redirects": True}, "x.example", {"follow_redirects": False}),
        ({"enable_http2": True}, "x.example", {"http_version": "1.1"}),
        ({"enable_http2": True}, "https://x.example", {"http_version": "2"}),
        ({"valid_http_versions": ["HTTP/2.0"]}, "https://x.example", {"http_version": "2"}),
        ({"valid_http_versions": ["HTTP/1.1", "HTTP/2"]}, "https://x.example", {"accept_versions": ("1.1",)}),
        ({"enable_http3": True, "enable_http2": False}, "http://x.example", {"url": "https://x.example"}),
        ({"bearer_token": "t"}, "x.example", {"headers": {"Authorization": "Bearer t"}}),
        ({"authorization": {"credentials": "t"}}, "x.example", {"headers": {"Authorization": "Bearer t"}}),
        ({"valid_status_codes": [200, 404]}, "x.example", {"status": (200, 404)}),
        ({"body_size_limit": "1KB"}, "x.example", {"body_limit": 1025, "body_over": "truncate"}),
    ],
)
def test_http_options_are_carried_over(options: dict[str, object], target: str, expected: dict[str, object]) -> None:
    probe = translate(PROBES, module(prober="http", http=options), target).probe
    assert {name: getattr(probe, name) for name in expected} == expected


def test_the_name_that_is_asked_for_is_the_one_that_is_checked() -> None:
    probe = translate(PROBES, module(prober="http"), "https://192.0.2.1/", "shop.example").probe
    assert probe.headers == {"Host": "shop.example"}  # type: ignore[attr-defined]
    assert probe.tls.server_name == "shop.example"  # type: ignore[attr-defined]


def test_groups_are_only_filled_in_beside_their_expect() -> None:
    steps = [{"expect": "a (.)", "send": "b ${1}"}, {"send": "c ${1}"}]
    probe = translate(PROBES, module(prober="tcp", tcp={"query_response": steps}), "x.example:1").probe
    assert [step.send for step in probe.dialogue] == ["b ${1}", "c $${1}"]  # type: ignore[attr-defined]


VERDICTS = yaml.safe_load((CASES / "verdicts.yml").read_text())


@pytest.mark.parametrize("case", VERDICTS, ids=[case["why"] for case in VERDICTS])
def test_files_are_taken_and_refused_as_blackbox_exporter_does(case: dict[str, Any]) -> None:
    modules, faults = read_text(Included("blackbox.yml", case["text"]))
    if "line" not in case:
        assert faults == []
        assert all(translates(one) for one in modules.values())
    else:
        assert faults
        assert faults[0].file == "blackbox.yml"
        assert faults[0].line == (case["line"] or 1)


def translates(module: Module) -> bool:
    """Whether a module becomes a probe, or says why it cannot."""
    target = {"websocket": "ws://a.example/", "unix": "/run/a.sock", "dns": "127.0.0.1"}.get(
        module.prober, "a.example:1"
    )
    try:
        return translate(PROBES, module, target).probe.kind == module.prober
    except ConfigError as error:
        return bool(str(error))


def test_aliases_cannot_stand_for_too_much() -> None:
    lines = ["x0: &x0 [a]"] + [f"x{n}: &x{n} [{', '.join([f'*x{n - 1}'] * 10)}]" for n in range(1, 9)]
    _modules, faults = read_text(Included("b.yml", "\n".join(lines)))
    assert "too much" in faults[0].message


def test_bytes_stay_bytes() -> None:
    text = 'modules: {a: {prober: tcp, tcp: {query_response: [{send: !!binary AP8=, expect_bytes: "\\x06é"}]}}}'
    modules, faults = read_text(Included("b.yml", text))
    assert faults == []
    (step,) = translate(PROBES, modules["a"], "a.example:1").probe.dialogue  # type: ignore[attr-defined]
    assert (step.send_hex, step.expect_hex) == ("00ff0a", "06c3a9")


@pytest.mark.parametrize(("text", "seconds"), [("0", 0), ("5s", 5), ("1m30s", 90), ("500ms", 0.5), ("-1.5m", -90)])
def test_durations(text: str, seconds: float) -> None:
    assert parse_go_duration(text) == seconds


@pytest.mark.parametrize(
    ("text", "size"), [("0", 0), ("10MB", 10 * 1024**2), ("1KiB", 1024), ("1MB1KB", 1024**2 + 1024), ("5B", 5)]
)
def test_sizes(text: str, size: int) -> None:
    assert parse_limit(text) == size


@pytest.mark.parametrize(
    ("own", "header", "expected"),
    [
        ("", "", 119.5),
        ("5s", "", 5.0),
        ("5s", "3", 2.5),
        ("", "10", 9.5),
        ("", "0.3", 0.3),
        ("", "nan", 119.5),
        ("", "0", 119.5),
    ],
)
def test_the_timeout_is_the_scrapes_less_an_offset(own: str, header: str, expected: float) -> None:
    chosen = module(prober="http", **({"timeout": own} if own else {}))
    assert timeout_of(chosen, header) == pytest.approx(expected)


def test_a_timeout_that_is_no_number_is_refused() -> None:
    with pytest.raises(UsageError, match="Failed to parse timeout"):
        timeout_of(module(prober="http"), "soon")


async def test_a_target_that_makes_no_sense_is_a_failed_probe_and_not_an_error() -> None:
    blackbox = Blackbox(env=new_env(), registry=PROBES)
    status, _type, text = await blackbox.answer({"target": "no port", "module": "tcp_connect"}, {})
    assert status == 200
    assert "probe_success 0.0" in text
    status, _type, text = await blackbox.answer({"target": "x", "debug": "true", "module": "tcp_connect"}, {})
    assert status == 200
    assert "level=error" in text


async def test_secrets_are_not_in_the_debug_text() -> None:
    blackbox = Blackbox(env=new_env(), registry=PROBES)
    options = {
        "basic_auth": {"username": "dog", "password": "s3cret"},
        "headers": {"Authorization": "s3cret", "X-Api-Key": "s3cret", "X": "shown"},
    }
    blackbox.take({"m": module(prober="http", http=options)})
    _status, _type, text = await blackbox.answer({"target": "http://:bad", "module": "m", "debug": "true"}, {})
    assert "s3cret" not in text
    assert "shown" in text


@pytest.mark.parametrize(
    ("url", "excluded", "expected"),
    [
        ("http://a.example/", "b.example", "http://p:1"),
        ("http://a.example/", "a.example", ""),
        ("http://x.a.example/", "a.example", ""),
        ("http://a.example/", ".a.example", "http://p:1"),
        ("http://x.a.example/", "*.a.example", ""),
        ("https://a.example/", "a.example:443", ""),
        ("http://a.example/", "a.example:443", "http://p:1"),
        ("http://10.1.2.3/", "10.0.0.0/8", ""),
        ("http://11.1.2.3/", "10.0.0.0/8, x", "http://p:1"),
        ("http://[2001:db8::1]/", "2001:db8::/32", ""),
        ("http://localhost/", "x", ""),
        ("http://a.example/", "*", ""),
    ],
)
def test_who_goes_past_the_proxy(url: str, excluded: str, expected: str) -> None:
    assert proxy_of(ProxyOptions(proxy_url="http://p:1", no_proxy=excluded), url, {}) == expected
    environment = {"HTTP_PROXY": "http://p:1", "https_proxy": "http://p:1", "NO_PROXY": excluded}
    assert proxy_of(ProxyOptions(proxy_from_environment=True), url, environment) == expected


def test_record_rules_mean_what_they_do_there() -> None:
    rules = {"fail_if_all_match_regexp": ["a"], "fail_if_none_matches_regexp": ["b", "c"]}
    options = {"query_name": "x", "validate_answer_rrs": rules}
    answer = translate(PROBES, module(prober="dns", dns=options), "127.0.0.1").probe.answer  # type: ignore[attr-defined]
    assert answer.complaint(["a c"]) == ""
    assert answer.complaint(["a c", "c"])
    assert answer.complaint(["a"])
    assert answer.complaint([])


@pytest.mark.parametrize(
    ("openssl", "registered"),
    [
        ("TLS_AES_128_GCM_SHA256", "TLS_AES_128_GCM_SHA256"),
        ("ECDHE-RSA-AES128-GCM-SHA256", "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256"),
        ("ECDHE-ECDSA-CHACHA20-POLY1305", "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256"),
        ("AES256-SHA", "TLS_RSA_WITH_AES_256_CBC_SHA"),
    ],
)
def test_ciphers_have_their_registered_names(openssl: str, registered: str) -> None:
    assert cipher_name(openssl) == registered


def test_a_certificate_in_the_module_is_a_file_while_it_is_needed() -> None:
    translated = translate(PROBES, module(prober="http", http={"tls_config": {"ca": "PEM"}}), "https://x.example")
    path = Path(translated.probe.tls.ca_file)  # type: ignore[attr-defined]
    assert path.read_text() == "PEM"
    del translated
    assert not path.exists()
