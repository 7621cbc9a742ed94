"""What hosts say of themselves, read and judged; the cases are data."""

from __future__ import annotations

import subprocess
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ed25519
from cryptography.x509.oid import NameOID
from hypothesis import given
from hypothesis import strategies as st

from dogwatch.errors import UsageError
from dogwatch.inspection.judging import DAY_S, Limits, judge
from dogwatch.inspection.reading import MEANINGS, VARIABLES, read
from dogwatch.inspection.script import CHECKS, inspection_script

CASES = Path(__file__).parents[2] / "cases" / "inspection"
NOW_S = 1_800_000_000.0


def said(name: str) -> str:
    return (CASES / f"{name}.txt").read_text()


def test_a_debian_in_trouble() -> None:
    found = read(said("debian"), asked_s=NOW_S, answered_s=NOW_S + 0.2)
    assert found.complete
    assert found.missing == {}
    assert [(one.mount, one.used_ratio, one.inodes_ratio) for one in found.disks] == [
        ("/", 0.93, 0.9),
        ("/srv/with space", 0.1, None),
    ]
    assert found.time_offset_s == pytest.approx(5.4)
    told = [(one.what, one.message) for one in judge(found, Limits(), NOW_S)]
    assert told == [
        ("disk above 85%", "/ 93%, 1.34 GiB of 19.1 GiB free"),
        ("inodes above 85%", "/ 90% of its inodes"),
        ("memory above 95%", "98% of 15.3 GiB"),
        ("swap above 80%", "90%"),
        ("load above 2 a core", "9.1 on 4 cores"),
        ("services failed", "nginx.service, backup.timer"),
        ("clock off by more than 1s", "5.4s ahead"),
        ("security updates wait", "1 of 2 updates"),
        ("reboot required", "linux-image-6.1.0-30-amd64"),
        ("errors in the log, last hour", "2, last: 2026-11-21T08:00:02+0000 web1 sshd[1]: fatal: no"),
        ("certificates", "/etc/ssl/private/broken.crt: holds no certificate that can be read"),
    ]
    wide = Limits(disk_ratio=0.95, memory_ratio=1, swap_ratio=1, load=3, offset_s=10, security_updates=1, errors=2)
    assert {one.check for one in judge(found, wide, NOW_S)} == {"services", "reboot", "certificates"}


def test_a_small_alpine_that_is_well() -> None:
    found = read(said("alpine"), asked_s=NOW_S, answered_s=NOW_S + 1)
    assert found.missing == {"services": "no systemd here", "errors": "the log may not be read by this user"}
    assert (found.updates, found.security_updates, found.time_offset_s) == (1, None, 0.0)
    assert found.memory_used_ratio == pytest.approx(0.2)
    assert judge(found, Limits(), NOW_S) == []
    assert found.values(NOW_S)["services_failed"] == -1


def certificate(days: float) -> str:
    key = ed25519.Ed25519PrivateKey.generate()
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "shop.example")])
    now = datetime.fromtimestamp(NOW_S, UTC)
    built = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=400))
        .not_valid_after(now + timedelta(days=days))
        .sign(key, None)
    )
    assert isinstance(built.signature_hash_algorithm, hashes.HashAlgorithm | None)
    return built.public_bytes(serialization.Encoding.PEM).decode()


@pytest.mark.parametrize(
    ("days", "told"),
    [(90, []), (3, ["shop.example in /a.pem: in 3d"]), (-2, ["shop.example in /a.pem: 2d ago"])],
)
def test_certificates_are_read_here(days: float, told: list[str]) -> None:
    found = read(f"@@dogwatch certificates\nfile /a.pem\n{certificate(days)}\n@@dogwatch end\n")
    assert [one.message for one in judge(found, Limits(certificate_s=14 * DAY_S), NOW_S)] == told
    assert found.values(NOW_S)["certificate_expires_in_s"] == pytest.approx(days * DAY_S)


def test_the_script_runs_here_and_says_what_is_true(tmp_path: Path) -> None:
    (tmp_path / "it.crt").write_text(certificate(20))
    checks = [check for check in CHECKS if check != "packages"]  # asking apt takes seconds
    asked_s = time.time()
    script = inspection_script(checks, [f"{tmp_path}/*.crt"])
    done = subprocess.run(["/bin/sh", "-c", script], capture_output=True, text=True, timeout=60, check=True)
    found = read(done.stdout, asked_s=asked_s, answered_s=time.time())
    assert (found.complete, done.stderr) == (True, "")
    assert found.disks
    assert found.memory_bytes is not None
    assert found.memory_bytes > 1 << 20
    assert found.time_offset_s == 0.0
    assert [one.name for one in found.certificates or ()] == ["shop.example"]


def test_output_that_was_cut_off_is_told() -> None:
    found = read("@@dogwatch load\n1.0 1.0 1.0 1/1 1\n")
    assert "load" in found.missing
    assert [one.what for one in judge(found, Limits(), NOW_S)] == ["looked at only in part"]


@given(st.text(alphabet=st.sampled_from("@dogwatch \n%0123456789./:<abc-"), max_size=400), st.sampled_from(CHECKS))
def test_no_output_breaks_the_reading(text: str, check: str) -> None:
    found = read(f"@@dogwatch {check}\n{text}\n@@dogwatch end\n", asked_s=0.0, answered_s=1.0)
    judge(found, Limits(), NOW_S)
    assert set(found.values(NOW_S)) == set(VARIABLES) == set(MEANINGS)


@pytest.mark.parametrize("pattern", ["/etc/$(id)", "relative", "/a b", "/a;id", "/`id`", "/a'b", ""])
def test_patterns_reach_no_shell(pattern: str) -> None:
    with pytest.raises(UsageError):
        inspection_script(("certificates",), [pattern])


def test_a_check_that_there_is_not() -> None:
    with pytest.raises(UsageError, match="no check 'dsik'"):
        inspection_script(("dsik",))
