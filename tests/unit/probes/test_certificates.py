"""Certificates are read as the cryptography package reads them, and hostile bytes are only ever a ValueError."""

from __future__ import annotations

import contextlib
import datetime
import ipaddress
import ssl
import subprocess

import pytest
import trustme
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from hypothesis import given, settings
from hypothesis import strategies as st

from dogwatch.probes.certificates import (
    MAX_DER_BYTES,
    certificate_facts,
    earliest_expiry,
    peer_chain,
    verified_chain,
)

KEY = ec.generate_private_key(ec.SECP256R1())
OIDS = [
    NameOID.COMMON_NAME,
    NameOID.ORGANIZATION_NAME,
    NameOID.LOCALITY_NAME,
    NameOID.STATE_OR_PROVINCE_NAME,
    NameOID.DOMAIN_COMPONENT,
    NameOID.EMAIL_ADDRESS,
    NameOID.USER_ID,
]


def make(
    *,
    subject: x509.Name,
    before: datetime.datetime,
    after: datetime.datetime,
    names: list[x509.GeneralName],
    serial: int,
) -> x509.Certificate:
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Root, of all")]))
        .public_key(KEY.public_key())
        .serial_number(serial)
        .not_valid_before(before)
        .not_valid_after(after)
    )
    if names:
        builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    return builder.sign(KEY, hashes.SHA256())


def der_of(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.DER)


DNS = st.from_regex(r"(\*\.)?[a-z]([a-z0-9-]{0,20}[a-z0-9])?\.example", fullmatch=True).map(x509.DNSName)
IPS = st.ip_addresses().map(x509.IPAddress)
URIS = st.just(x509.UniformResourceIdentifier("https://a.example/"))
TEXT = st.text(
    st.characters(codec="utf-8", exclude_characters="\0", exclude_categories=("Cs",)), min_size=1, max_size=40
).filter(lambda text: len(text.encode()) <= 64)  # cryptography's own limit of a common name


@settings(max_examples=150, deadline=None)
@given(
    attributes=st.lists(st.tuples(st.sampled_from(OIDS), TEXT), max_size=5),
    before=st.datetimes(datetime.datetime(1951, 1, 1), datetime.datetime(2100, 1, 1)),  # noqa: DTZ001 naive is UTC here
    length=st.timedeltas(datetime.timedelta(seconds=1), datetime.timedelta(days=365 * 100)),
    names=st.lists(st.one_of(DNS, IPS, URIS), max_size=6),
    serial=st.integers(1, 2**159 - 1),
)
def test_facts_are_what_cryptography_reads(
    attributes: list[tuple[x509.ObjectIdentifier, str]],
    before: datetime.datetime,
    length: datetime.timedelta,
    names: list[x509.GeneralName],
    serial: int,
) -> None:
    subject = x509.Name([x509.NameAttribute(oid, text) for oid, text in attributes if oid != NameOID.DOMAIN_COMPONENT])
    certificate = make(subject=subject, before=before, after=before + length, names=names, serial=serial)
    facts = certificate_facts(der_of(certificate))
    assert facts.not_before_s == certificate.not_valid_before_utc.timestamp()
    assert facts.not_after_s == certificate.not_valid_after_utc.timestamp()
    assert facts.serial == f"{certificate.serial_number:x}"
    assert facts.fingerprint == certificate.fingerprint(hashes.SHA256()).hex()
    assert facts.subject == certificate.subject.rfc4514_string()
    assert facts.issuer == certificate.issuer.rfc4514_string() == "CN=Root\\, of all"
    expected = [str(name.value) for name in names if isinstance(name, x509.DNSName | x509.IPAddress)]
    assert list(facts.names) == expected


def sample_der() -> bytes:
    return der_of(
        make(
            subject=x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "a.example")]),
            before=datetime.datetime(2026, 1, 1),  # noqa: DTZ001
            after=datetime.datetime(2027, 1, 1),  # noqa: DTZ001
            names=[x509.DNSName("a.example"), x509.IPAddress(ipaddress.ip_address("::1"))],
            serial=1,
        )
    )


SAMPLE = sample_der()


@settings(max_examples=1500, deadline=None)
@given(edits=st.lists(st.tuples(st.integers(0, len(SAMPLE) - 1), st.integers(0, 255)), min_size=1, max_size=6))
def test_damaged_certificates_only_raise_value_error(edits: list[tuple[int, int]]) -> None:
    damaged = bytearray(SAMPLE)
    for at, value in edits:
        damaged[at] = value
    with contextlib.suppress(ValueError):
        certificate_facts(bytes(damaged))


@settings(max_examples=500, deadline=None)
@given(st.binary(max_size=300))
def test_any_bytes_only_raise_value_error(junk: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        certificate_facts(junk)


@pytest.mark.parametrize("size", range(0, len(SAMPLE), 7))
def test_a_truncated_certificate_is_refused(size: int) -> None:
    with pytest.raises(ValueError, match="certificate"):
        certificate_facts(SAMPLE[:size])


def test_size_and_oid_bombs_are_refused() -> None:
    with pytest.raises(ValueError, match="more than"):
        certificate_facts(b"\x30" + bytes(MAX_DER_BYTES))
    with pytest.raises(ValueError, match="bad length"):
        certificate_facts(b"\x30\x89" + b"\xff" * 20)


def test_earliest_expiry_is_the_least_of_the_chain() -> None:
    authority = trustme.CA()
    early = authority.issue_cert("a.example", not_after=datetime.datetime(2030, 1, 1, tzinfo=datetime.UTC))
    late = authority.issue_cert("b.example", not_after=datetime.datetime(2031, 1, 1, tzinfo=datetime.UTC))
    ders = [ssl.PEM_cert_to_DER_cert(leaf.cert_chain_pems[0].bytes().decode()) for leaf in (late, early)]
    assert earliest_expiry(ders) == datetime.datetime(2030, 1, 1, tzinfo=datetime.UTC).timestamp()
    with pytest.raises(ValueError, match=r"."):
        earliest_expiry([])


@pytest.mark.filterwarnings("ignore:Parsed a serial number")
def test_the_systems_roots_are_all_read() -> None:
    ders = ssl.create_default_context().get_ca_certs(binary_form=True)
    for der in ders:
        theirs = x509.load_der_x509_certificate(der)
        facts = certificate_facts(der)
        assert facts.not_after_s == theirs.not_valid_after_utc.timestamp()
        assert facts.serial == f"{theirs.serial_number:x}"


def handshake(client: ssl.SSLContext, server: ssl.SSLContext) -> ssl.SSLObject:
    c_in, c_out, s_in, s_out = (ssl.MemoryBIO() for _ in range(4))
    ours = client.wrap_bio(c_in, c_out, server_hostname="a.example")
    theirs = server.wrap_bio(s_in, s_out, server_side=True)
    for _ in range(4):
        for side in (ours, theirs):
            with contextlib.suppress(ssl.SSLWantReadError):
                side.do_handshake()
            s_in.write(c_out.read())
            c_in.write(s_out.read())
    return ours


def test_the_chain_is_what_the_peer_sent_and_what_was_verified() -> None:
    root = trustme.CA()
    middle = root.create_child_ca()
    leaf = middle.issue_cert("a.example")
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    leaf.configure_cert(server)
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    root.configure_trust(client)
    connection = handshake(client, server)
    assert [certificate_facts(der).names for der in peer_chain(connection)] == [("a.example",), ()]
    assert len(verified_chain(connection)) == 3

    blind = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    blind.check_hostname, blind.verify_mode = False, ssl.CERT_NONE
    connection = handshake(blind, server)
    assert len(peer_chain(connection)) == 2


def test_without_the_private_calls_the_leaf_remains() -> None:
    class Old:
        def getpeercert(self, binary_form: bool) -> bytes:
            return SAMPLE if binary_form else b""

    assert peer_chain(Old()) == (SAMPLE,)
    assert verified_chain(Old()) == ()


def test_import_is_light() -> None:
    """The agent must stay light: reading certificates pulls in no TLS and no cryptography."""
    import sys

    code = "import dogwatch.probes.certificates, sys; print([m for m in ('ssl', 'cryptography') if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.strip() == "[]"
