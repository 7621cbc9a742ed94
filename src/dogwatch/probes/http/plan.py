"""What of an http probe does not change between attempts, worked out once and kept in the target's memory."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from dogwatch.probes.engine.addresses import Address, literal
from dogwatch.probes.engine.dial import SocketOptions
from dogwatch.probes.engine.tls import TlsPolicy
from dogwatch.probes.http.request import Hop, Place, basic, build_request, parse_url
from dogwatch.probes.probe import EVIDENCE_BYTES

if TYPE_CHECKING:
    from dogwatch.probes.http.kept import Kept
    from dogwatch.probes.kinds.http import HttpProbe

_STATUS_RANGE = re.compile(r"([1-5])xx|(\d{3})(?:\s*-\s*(\d{3}))?", re.IGNORECASE)
_READS_STATUS = re.compile(r"\bstatus\b")
DEFAULT_STATUS = frozenset(range(200, 300))
ANY_STATUS = frozenset(range(1000))


def parse_statuses(items: tuple[int | str, ...]) -> frozenset[int]:
    """Return the codes of `200`, `"200-299"`, `"2xx"`.

    Raises: ValueError naming what is not one.
    """
    codes: set[int] = set()
    for item in items:
        match = _STATUS_RANGE.fullmatch(str(item).strip())
        if match is None:
            raise ValueError(f"'{item}' is not a status; write 200, 200-299 or 2xx")
        low = int(match[1]) * 100 if match[1] else int(match[2])
        high = low + 99 if match[1] else int(match[3] or low)
        if not 100 <= low <= high <= 999:
            raise ValueError(f"'{item}' is not a status; they go from 100 to 999")
        codes.update(range(low, high + 1))
    return frozenset(codes)


class Resumption:
    """What is kept of one origin's TLS: the session, and the chain that its full handshake showed."""

    __slots__ = ("chain", "full_s", "refusals", "session")

    def __init__(self) -> None:
        self.session: object | None = None
        self.chain: tuple[bytes, ...] = ()
        self.full_s = 0.0
        self.refusals = 0


class HttpPlan:
    """An http probe made ready, and what its target leaves between attempts (kept connection, TLS sessions)."""

    __slots__ = (
        "_keep",
        "accept_status",
        "body",
        "facts",
        "family",
        "first",
        "headers",
        "inspect_policy",
        "kept",
        "near",
        "override",
        "particular",
        "policy",
        "probe",
        "resumptions",
        "secrets",
        "slow",
        "socket_options",
    )

    def __init__(self, probe: HttpProbe) -> None:
        self.probe = probe
        self.slow = probe.slow_lane
        self.headers = request_headers(probe)
        self.body = probe.body.encode("utf-8", "surrogateescape")
        self.family = address_family(probe)
        self.override = literal(probe.resolve) if probe.resolve else None
        tls = probe.tls
        self.policy = TlsPolicy(
            verify=tls.verify,
            ca_file=tls.ca_file,
            cert_file=tls.cert_file,
            key_file=tls.key_file,
            min_version=tls.min_version,
            max_version=tls.max_version,
            alpn=("http/1.1",),
        )
        self.inspect_policy = TlsPolicy(verify=False, cert_file=tls.cert_file, key_file=tls.key_file)
        chosen = probe.source_address or probe.interface
        self.socket_options = SocketOptions(probe.source_address, probe.interface) if chosen else None
        self.accept_status = accepted_statuses(probe) or ANY_STATUS
        # Whether more than the status decides about an answer; see judge.
        self.particular = bool(probe.fail_if_tls or probe.fail_if_not_tls or probe.accept_versions)
        self.facts: tuple[Hop, Address | None, dict[str, Any]] | None = None
        self._keep = frozenset[str](), EVIDENCE_BYTES
        place = parse_url(probe.url)
        self.secrets = secrets_of(probe, place)
        self.resumptions: dict[tuple[str, str, int], Resumption] = {}
        self.kept: Kept | None = None
        # Whether a connection may stand before the call that asks for it returns; see _sent_at_once.
        self.near = True
        self.first = self.hop(place, probe.method, self.body, foreign=False)

    def hop(self, place: Place, method: str, body: bytes, *, foreign: bool) -> Hop:
        request = build_request(place, method, self.headers, body, keep_alive=self.probe.keep_alive, foreign=foreign)
        address = literal(place.host)
        return Hop(place, address, method, request, place.scheme == "https", place.url, foreign)

    def keep(self, wants: frozenset[str]) -> int:
        """Return how many bytes of the body an attempt keeps."""
        if self._keep[0] is not wants:
            self._keep = wants, self.probe.body_limit if "body" in wants or "json" in wants else EVIDENCE_BYTES
        return self._keep[1]

    def resumption(self, origin: tuple[str, str, int]) -> Resumption:
        found = self.resumptions.get(origin)
        if found is None:
            if len(self.resumptions) >= 4:  # redirects that lead elsewhere every time
                self.resumptions.clear()
            found = self.resumptions[origin] = Resumption()
        return found


def plan_of(probe: HttpProbe, memory: dict[str, Any]) -> HttpPlan:
    """Return the target's plan, made at its first attempt."""
    plan: HttpPlan | None = memory.get("http")
    if plan is None or plan.probe is not probe:
        fresh = HttpPlan(probe)
        if plan is not None and plan.probe == probe:
            fresh.resumptions, fresh.kept = plan.resumptions, plan.kept
        plan = memory["http"] = fresh
    return plan


def request_headers(probe: HttpProbe) -> dict[str, str]:
    """Return the headers to send, credentials and compression included."""
    headers = dict(probe.headers)
    given = {name.lower() for name in headers}
    if probe.bearer and "authorization" not in given:
        headers["Authorization"] = f"Bearer {probe.bearer}"
    elif probe.basic_auth is not None and "authorization" not in given:
        headers["Authorization"] = basic(f"{probe.basic_auth.username}:{probe.basic_auth.password}")
    if probe.compression != "none" and "accept-encoding" not in given:
        headers["Accept-Encoding"] = "gzip, deflate" if probe.compression == "any" else probe.compression
    return headers


def address_family(probe: HttpProbe) -> str:
    family = str(probe.ip_version)
    return f"{family}?" if family != "auto" and probe.ip_fallback else family


def accepted_statuses(probe: HttpProbe) -> frozenset[int] | None:
    """Return the codes that are a success; None where the expectation itself reads the status."""
    if probe.status is not None:
        return parse_statuses(probe.status)
    if probe.expect is not None and _READS_STATUS.search(probe.expect):
        return None
    return DEFAULT_STATUS


def secrets_of(probe: HttpProbe, place: Place) -> tuple[str, ...]:
    """Return what must not appear in evidence even if the target echoes it, longest first."""
    found = {probe.bearer}
    if probe.basic_auth is not None:
        found |= {probe.basic_auth.password, basic(f"{probe.basic_auth.username}:{probe.basic_auth.password}")[6:]}
    auth = place.auth
    if auth:
        found |= {auth.partition(":")[2], basic(auth)[6:]}
    if probe.proxy:
        found.add(urlsplit(probe.proxy).password or "")
    for name, value in probe.headers.items():
        if re.search(r"auth|cookie|key|token|secret|password|session|signature", name, re.IGNORECASE):
            found.add(value)
            found |= {part.partition("=")[2] for part in value.split("; ") if "=" in part}
            found.add(value.rpartition(" ")[2])
    # Short words would blank half the page.
    return tuple(sorted((secret for secret in found if len(secret) >= 4), key=len, reverse=True))
