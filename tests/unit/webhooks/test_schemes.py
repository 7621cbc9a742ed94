"""Signatures: the vectors that their inventors publish, and properties of every kind."""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Callable, Mapping
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from dogwatch.webhooks.request import RawRequest
from dogwatch.webhooks.scheme import Rejected, Scheme, Verified
from dogwatch.webhooks.schemes import (
    SCHEMES,
    GithubScheme,
    GitlabScheme,
    HmacScheme,
    NoScheme,
    StandardScheme,
    StripeScheme,
    TokenScheme,
)

NOW_S = 1_800_000_000.0
TOLERANCE_S = 300.0
OURS, OLD = "a-secret-of-ours", "the-one-before"
KEY = base64.b64encode(OURS.encode()).decode()
OLD_KEY = "whsec_" + base64.b64encode(OLD.encode()).decode()


def verify(scheme: Scheme, request: RawRequest, *, now_s: float = NOW_S) -> Verified:
    return scheme.verify(request, now_s=now_s, tolerance_s=TOLERANCE_S)


def _mac(secret: str, content: bytes, algorithm: str = "sha256") -> bytes:
    return hmac.new(secret.encode(), content, algorithm).digest()


# -- published vectors ------------------------------------------------------------------------------------------------


def test_githubs_own_vector() -> None:
    """Source: "Validating webhook deliveries", docs.github.com."""
    scheme = GithubScheme(secrets=("It's a Secret to Everybody",))
    sent = "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17"
    verify(scheme, RawRequest(headers={"x-hub-signature-256": sent}, body=b"Hello, World!"))
    with pytest.raises(Rejected):
        verify(scheme, RawRequest(headers={"x-hub-signature-256": sent}, body=b"Hello, World?"))


STANDARD = StandardScheme(secrets=("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",))
STANDARD_HEADERS = {
    "webhook-id": "msg_p5jXN8AQM9LWM0D4loKWxJek",
    "webhook-timestamp": "1614265330",
    "webhook-signature": "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
}
STANDARD_BODY = b'{"test": 2432232314}'


@pytest.mark.parametrize("prefix", ["webhook", "svix"])
def test_the_vector_of_standard_webhooks(prefix: str) -> None:
    """Source: the test vector of the specification and of Svix's documentation."""
    headers = {name.replace("webhook", prefix): value for name, value in STANDARD_HEADERS.items()}
    request = RawRequest(headers=headers, body=STANDARD_BODY)
    found = verify(STANDARD, request, now_s=1614265330.0)
    assert found.until_s == 1614265330.0 + TOLERANCE_S
    assert STANDARD.identity(request, {"type": "a.b"}).delivery_id == "msg_p5jXN8AQM9LWM0D4loKWxJek"


@pytest.mark.parametrize(
    ("signature", "good"),
    [
        ("v1,AAAA v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE= v2,x", True),
        ("v1a,AAAA v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=", True),
        ("v2,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=", False),
        ("g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=", False),
        ("v1,", False),
        ("", False),
    ],
)
def test_several_signatures_and_versions(signature: str, good: bool) -> None:
    request = RawRequest(headers={**STANDARD_HEADERS, "webhook-signature": signature}, body=STANDARD_BODY)
    if good:
        verify(STANDARD, request, now_s=1614265330.0)
    else:
        with pytest.raises(Rejected):
            verify(STANDARD, request, now_s=1614265330.0)


def test_slacks_own_vector() -> None:
    """Source: "Verifying requests from Slack", api.slack.com."""
    scheme = HmacScheme(
        secrets=("8f742231b10e8888abcd99yyyzzz85a5",),
        header="X-Slack-Signature",
        prefix="v0=",
        signed="v0:{timestamp}:{body}",
        timestamp_header="X-Slack-Request-Timestamp",
    )
    body = (
        b"token=xyzz0WbapA4vBCDEFasx0q6G&team_id=T1DC2JH3J&team_domain=testteamnow&channel_id=G8PSS9T3V"
        b"&channel_name=foobar&user_id=U2CERLKJA&user_name=roadrunner&command=%2Fwebhook-collect&text="
        b"&response_url=https%3A%2F%2Fhooks.slack.com%2Fcommands%2FT1DC2JH3J%2F397700885554%2F96rGlfmibIGlgcZRskXaIFfN"
        b"&trigger_id=398738663015.47445629121.803a0bc887a14d10d2c447fce8b6703c"
    )
    headers = {
        "x-slack-signature": "v0=a2114d57b48eac39b9ad189dd8316235a7b4a8d21a10bd27519666489c69b503",
        "x-slack-request-timestamp": "1531420618",
    }
    verify(scheme, RawRequest(headers=headers, body=body), now_s=1531420618.0)


def test_stripes_scheme() -> None:
    """Source: "Verify manually", docs.stripe.com: HMAC-SHA256 of `timestamp.body` with the secret as it is written."""
    scheme = StripeScheme(secrets=("whsec_x",))
    stamp = str(int(NOW_S))
    good = _mac("whsec_x", f"{stamp}.".encode() + b"{}").hex()
    for text in (f"t={stamp},v1={good},v0=ab", f"t={stamp}, v1={'0' * 64}, v1={good}"):
        verify(scheme, RawRequest(headers={"stripe-signature": text}, body=b"{}"))
    for text in (f"v1={good}", f"t={stamp}", f"t={stamp},v0={good}", f"t={stamp},t=1,v1={good}", "", "t=,v1="):
        with pytest.raises(Rejected):
            verify(scheme, RawRequest(headers={"stripe-signature": text}, body=b"{}"))
    assert scheme.identity(RawRequest(), {"id": "evt_1", "type": "charge.ok"}).delivery_id == "evt_1"


# -- properties of every kind that signs ------------------------------------------------------------------------------

Sign = Callable[[str, bytes, int], Mapping[str, str]]


def _github(secret: str, body: bytes, _stamp: int) -> Mapping[str, str]:
    return {"x-hub-signature-256": "sha256=" + _mac(secret, body).hex()}


def _standard(secret: str, body: bytes, stamp: int) -> Mapping[str, str]:
    signed = base64.b64encode(_mac(secret, f"msg_1.{stamp}.".encode() + body)).decode()
    return {"webhook-id": "msg_1", "webhook-timestamp": str(stamp), "webhook-signature": f"v1,{signed}"}


def _stripe(secret: str, body: bytes, stamp: int) -> Mapping[str, str]:
    return {"stripe-signature": f"t={stamp},v1=" + _mac(secret, f"{stamp}.".encode() + body).hex()}


def _hmac(secret: str, body: bytes, stamp: int) -> Mapping[str, str]:
    signed = base64.b64encode(_mac(secret, f"7;{stamp};".encode() + body, "sha512")).decode()
    return {"x-sig": f"v={signed}", "x-time": str(stamp), "x-id": "7"}


SIGNING: dict[str, tuple[Scheme, Sign, bool]] = {
    "github": (GithubScheme(secrets=(OURS, OLD)), _github, False),
    "standard": (StandardScheme(secrets=(KEY, OLD_KEY)), _standard, True),
    "stripe": (StripeScheme(secrets=(OURS, OLD)), _stripe, True),
    "hmac": (
        HmacScheme(
            secrets=(OURS, OLD),
            header="X-Sig",
            algorithm="sha512",
            encoding="base64",
            prefix="v=",
            signed="{id};{timestamp};{body}",
            timestamp_header="X-Time",
            id_header="X-Id",
        ),
        _hmac,
        True,
    ),
}
kinds = pytest.mark.parametrize("kind", list(SIGNING))


def test_every_kind_that_signs_is_here() -> None:
    assert {*SIGNING, "gitlab", "token", "none"} == set(SCHEMES.kinds())


@kinds
@given(body=st.binary(max_size=300), secret=st.sampled_from([OURS, OLD]), off=st.integers(-299, 299))
@settings(max_examples=60)
def test_what_is_signed_is_taken_with_each_secret(kind: str, body: bytes, secret: str, off: int) -> None:
    scheme, sign, _timed = SIGNING[kind]
    found = verify(scheme, RawRequest(headers=sign(secret, body, int(NOW_S) + off), body=body))
    assert len(found.proof) == 64


@kinds
@given(body=st.binary(max_size=60), data=st.data())
@settings(max_examples=120)
def test_one_changed_bit_anywhere_is_refused(kind: str, body: bytes, data: st.DataObject) -> None:
    scheme, sign, _timed = SIGNING[kind]
    headers = dict(sign(OURS, body, int(NOW_S)))
    name = data.draw(st.sampled_from([*headers, "body"]))
    whole = body if name == "body" else headers[name].encode()
    if not whole:
        return
    at, bit = data.draw(st.integers(0, len(whole) - 1)), data.draw(st.integers(0, 6))
    changed = bytes([*whole[:at], whole[at] ^ 1 << bit, *whole[at + 1 :]])
    if name == "body":
        body = changed
    else:
        text = changed.decode("latin-1")
        # Not every bit means something: the case of a hex digit, the last bits of base64, space around a header.
        if _meaning(text) == _meaning(headers[name]):
            return
        headers[name] = text
    with pytest.raises(Rejected):
        verify(scheme, RawRequest(headers=headers, body=body))


def _meaning(text: str) -> Any:
    text = text.strip()
    for prefix in ("v1,", "v="):
        if text.startswith(prefix):
            try:
                return base64.b64decode(text.removeprefix(prefix).replace("-", "+").replace("_", "/"))
            except ValueError:
                return text
    head, _, hexed = text.rpartition("=")
    return head, hexed.lower()


@kinds
@given(
    secret=st.text(min_size=1, max_size=40).filter(lambda text: text not in (OURS, OLD)), body=st.binary(max_size=50)
)
@settings(max_examples=60)
def test_another_secret_is_refused(kind: str, secret: str, body: bytes) -> None:
    scheme, sign, _timed = SIGNING[kind]
    assume(secret not in (OURS, OLD))
    with pytest.raises(Rejected):
        verify(scheme, RawRequest(headers=sign(secret, body, int(NOW_S)), body=body))


@kinds
@given(off=st.integers(301, 10**9) | st.integers(-(10**9), -301))
@settings(max_examples=40)
def test_a_time_outside_the_window_is_refused(kind: str, off: int) -> None:
    scheme, sign, timed = SIGNING[kind]
    request = RawRequest(headers=sign(OURS, b"{}", int(NOW_S) + off), body=b"{}")
    if timed:
        with pytest.raises(Rejected, match="timestamp"):
            verify(scheme, request)
    else:
        verify(scheme, request)


@kinds
@given(data=st.data())
@settings(max_examples=150)
def test_no_header_however_odd_does_more_than_be_refused(kind: str, data: st.DataObject) -> None:
    scheme, sign, _timed = SIGNING[kind]
    headers = dict(sign(OURS, b"{}", int(NOW_S)))
    for name in list(headers):
        odd = data.draw(st.none() | st.text(st.characters(max_codepoint=255), max_size=40))
        if odd is None:
            continue
        headers[name] = odd
    told = ""
    try:
        verify(scheme, RawRequest(headers=headers, body=b"{}"))
    except Rejected as error:
        told = str(error)
    assert OURS not in told


@kinds
def test_a_header_that_is_there_twice_is_refused(kind: str) -> None:
    scheme, sign, _timed = SIGNING[kind]
    headers = sign(OURS, b"{}", int(NOW_S))
    for name in headers:
        with pytest.raises(Rejected, match="more than once"):
            verify(scheme, RawRequest(headers=headers, repeated=frozenset([name]), body=b"{}"))


@kinds
def test_the_same_signed_text_has_the_same_proof_however_it_is_written(kind: str) -> None:
    scheme, sign, _timed = SIGNING[kind]
    one = verify(scheme, RawRequest(headers=sign(OURS, b"{}", int(NOW_S)), body=b"{}"))
    # Signed with the other secret: another signature, the same message.
    two = verify(scheme, RawRequest(headers=sign(OLD, b"{}", int(NOW_S)), body=b"{}"))
    assert one.proof == two.proof


# -- tokens -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("scheme", "headers", "query", "good"),
    [
        (GitlabScheme(secrets=(OURS,)), {"x-gitlab-token": OURS}, {}, True),
        (GitlabScheme(secrets=("ключ", OURS)), {"x-gitlab-token": "ключ".encode().decode("latin-1")}, {}, True),
        (GitlabScheme(secrets=(OURS,)), {"x-gitlab-token": OURS[:-1]}, {}, False),
        (GitlabScheme(secrets=(OURS,)), {}, {}, False),
        (TokenScheme(secrets=(OURS,), prefix="Bearer "), {"authorization": f"Bearer {OURS}"}, {}, True),
        (TokenScheme(secrets=(OURS,), prefix="Bearer "), {"authorization": OURS}, {}, False),
        (TokenScheme(secrets=(OURS,)), {"authorization": OURS}, {}, True),
        (TokenScheme(secrets=(OURS,)), {"authorization": f"bearer {OURS}"}, {}, True),
        (TokenScheme(secrets=(OURS,)), {"authorization": f"Basic {OURS}"}, {}, False),
        (TokenScheme(secrets=(OURS,), header="X-T"), {"x-t": f"Bearer {OURS}"}, {}, False),
        (TokenScheme(secrets=(OURS,), query="key"), {}, {"key": OURS}, True),
        (TokenScheme(secrets=(OURS,), query="key"), {"authorization": OURS}, {"key": "x"}, False),
        (TokenScheme(secrets=(OURS,), query="key"), {"authorization": OURS}, {}, False),
        (NoScheme(unsafe=True), {}, {}, True),
    ],
)
def test_tokens(scheme: Scheme, headers: dict[str, str], query: dict[str, str], good: bool) -> None:
    request = RawRequest(headers=headers, query=query)
    if good:
        assert verify(scheme, request) == Verified()
        return
    with pytest.raises(Rejected) as error:
        verify(scheme, request)
    assert OURS not in str(error.value)


# -- what configuration may say ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("scheme", "words"),
    [
        (GithubScheme(), "is empty"),
        (GithubScheme(secrets=(" ",)), "is empty"),
        (StandardScheme(secrets=("whsec_?",)), "base64"),
        (NoScheme(), "must be true"),
        (NoScheme(unsafe=True, secrets=("x",)), "not looked at"),
        (HmacScheme(secrets=("x",), header="X Y"), "name of a header"),
        (HmacScheme(secrets=("x",), header="X", signed="{timestamp}"), "{body}"),
        (HmacScheme(secrets=("x",), header="X", signed="{timestamp}.{body}"), "is needed"),
        (HmacScheme(secrets=("x",), header="X", timestamp_header="T"), "{timestamp}"),
        (HmacScheme(secrets=("x",), header="X", signed="{id}{body}"), "is needed"),
    ],
)
def test_faults(scheme: Scheme, words: str) -> None:
    assert any(words in message for _path, message, _hint in scheme.faults())


def test_repeats_are_allowed_where_it_says_so() -> None:
    scheme = HmacScheme(secrets=(OURS,), header="X-Sig", repeats=True)
    request = RawRequest(headers={"x-sig": _mac(OURS, b"go").hex()}, body=b"go")
    assert verify(scheme, request).proof == ""
    strict = HmacScheme(secrets=(OURS,), header="X-Sig")
    assert verify(strict, request).proof == hashlib.sha256(b"go").hexdigest()
