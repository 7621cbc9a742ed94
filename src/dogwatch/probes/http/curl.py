"""The slow lane: HTTP/2, HTTP/3, proxies and Brotli on libcurl, with our addresses, limits, phases and reasons.

libcurl never resolves a name: its wheel's resolver fails under load, and redirects would escape our limits.
"""

from __future__ import annotations

import ssl
from time import perf_counter
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pycurl

from dogwatch.core.curl import CurlLoop, set_trust
from dogwatch.probes.engine.addresses import Address, literal
from dogwatch.probes.engine.dial import reason_of
from dogwatch.probes.http.attempt import REDIRECTS, HttpAttempt
from dogwatch.probes.http.plan import HttpPlan
from dogwatch.probes.http.request import USER_AGENT, Hop
from dogwatch.probes.http.response import Body, Head, Refused, body_of, parse_head
from dogwatch.probes.probe import Attempt, Cancel, Done

if TYPE_CHECKING:
    from dogwatch.probes.engine.engine import Engine

_PROXY_PORTS = {"http": 80, "https": 443, "socks4": 1080, "socks4a": 1080, "socks5": 1080, "socks5h": 1080}
# These look the target's name up themselves; the others want an address from us.
_REMOTE_NAMES = frozenset({"http", "https", "socks4a", "socks5h"})
_QUIC_ERROR = 96  # CURLE_QUIC_CONNECT_ERROR, which pycurl has no name for
_REASONS = {
    _QUIC_ERROR: "unreachable",
    97: "unreachable",  # CURLE_PROXY
    pycurl.E_COULDNT_RESOLVE_HOST: "resolve",
    pycurl.E_COULDNT_RESOLVE_PROXY: "resolve",
    pycurl.E_COULDNT_CONNECT: "unreachable",
    pycurl.E_OPERATION_TIMEDOUT: "timeout",
    pycurl.E_SSL_CONNECT_ERROR: "tls",
    pycurl.E_PEER_FAILED_VERIFICATION: "certificate",
    pycurl.E_SSL_CERTPROBLEM: "local",
    pycurl.E_SSL_CACERT_BADFILE: "local",
    pycurl.E_SEND_ERROR: "reset",
    pycurl.E_RECV_ERROR: "reset",
    pycurl.E_GOT_NOTHING: "reset",
    pycurl.E_HTTP2: "protocol",
    92: "protocol",  # CURLE_HTTP2_STREAM, which pycurl has no name for
    pycurl.E_PARTIAL_FILE: "protocol",
    pycurl.E_BAD_CONTENT_ENCODING: "protocol",
    pycurl.E_OUT_OF_MEMORY: "local",
    pycurl.E_INTERFACE_FAILED: "local",
}
_CONNECTION = frozenset({pycurl.E_COULDNT_CONNECT, pycurl.E_SEND_ERROR, pycurl.E_RECV_ERROR, _QUIC_ERROR})


class CurlAttempt(HttpAttempt):
    """An attempt whose requests libcurl makes; everything around them is as in the fast lane."""

    __slots__ = ("enough", "handle", "lane", "refused", "resolve_list")

    def __init__(self, engine: Engine, plan: HttpPlan, attempt: Attempt, done: Done) -> None:
        super().__init__(engine, plan, attempt, done)
        self.lane: CurlLoop | None = None
        self.handle: Any = None
        self.refused: Refused | None = None
        self.resolve_list: list[str] = []
        self.enough = False

    def _hop(self, hop: Hop) -> None:
        self.hop = hop
        self.mark_s = perf_counter()
        self.head = self.body = None
        self.buffer = b""
        self.interim = 0
        self.resolve_list = []
        probe = self.plan.probe
        names: list[tuple[str, int, str]] = []
        scheme = ""
        if probe.proxy:
            proxy = urlsplit(probe.proxy)
            scheme = proxy.scheme
            names.append((proxy.hostname or "", proxy.port or _PROXY_PORTS[scheme], proxy.hostname or ""))
        if scheme not in _REMOTE_NAMES:
            own = probe.resolve if probe.resolve and not hop.foreign else hop.place.host
            names.append((self._name(), hop.place.port, own))
        self._resolve_next(names)

    def _name(self) -> str:
        """Return the name in the URL that libcurl gets: it asks for that one in TLS."""
        probe = self.plan.probe
        return probe.tls.server_name if probe.tls.server_name and not self.hop.foreign else self.hop.place.host

    def _resolve_next(self, names: list[tuple[str, int, str]]) -> None:
        """Collect the addresses of every name that libcurl would look up, one after the other."""
        if not names:
            self.resolve_s += perf_counter() - self.mark_s
            self._transfer(self.plan.probe.tls.verify)
            return
        alias, port, name = names[0]

        def done(addresses: tuple[Address, ...], message: str) -> None:
            self.resolving = False
            self.cancel_step = None
            if not addresses:
                self.resolve_s += perf_counter() - self.mark_s
                self.fail("resolve", f"cannot resolve {name}: {message}")
                return
            hosts = ",".join(f"[{text}]" if ":" in text else text for _, text in addresses[:8])
            if literal(alias) is None or alias != name:
                self.resolve_list.append(f"{alias}:{port}:{hosts}")
            self._resolve_next(names[1:])

        address = literal(name)
        if address is not None:
            done((address,), "")
            return
        self.resolving = True
        self.doing = f"resolving {name}"
        deadline_s = perf_counter() + self.attempt.timeout_s
        cancel = self.engine.resolve(name, self.plan.family, deadline_s, done)
        if self.resolving:
            self.cancel_step = cancel

    def _transfer(self, verify: bool) -> None:
        self.doing = "transferring"
        lane = self.lane
        if lane is None:
            self.fail("local", "no libcurl lane")
            return
        handle = self.handle = pycurl.Curl()
        try:
            self._set_options(handle, verify)
            lane.add(handle, self)
        except (pycurl.error, UnicodeError) as error:
            self.fail("local", f"libcurl refuses an option: {error}")

    def _set_options(self, handle: Any, verify: bool) -> None:
        probe, hop = self.plan.probe, self.hop
        left_s = self.attempt.timeout_s - (perf_counter() - self.launched_s)
        place = hop.place
        name = self._name()
        host = f"[{name}]" if ":" in name else name
        for option, value in (
            (pycurl.URL, f"{place.scheme}://{host}:{place.port}{place.target}"),
            (pycurl.PATH_AS_IS, 1),
            (pycurl.NOSIGNAL, 1),
            (pycurl.NOPROGRESS, 1),
            (pycurl.PROTOCOLS, pycurl.PROTO_HTTP | pycurl.PROTO_HTTPS),
            (pycurl.FOLLOWLOCATION, 0),
            (pycurl.TIMEOUT_MS, max(1, int(left_s * 1000) + 50)),
            (pycurl.RESOLVE, self.resolve_list),
            (pycurl.NOPROXY, ""),
            (pycurl.PROXY, probe.proxy),
            (pycurl.IPRESOLVE, {"4": 1, "6": 2}.get(self.plan.family, 0)),
            (pycurl.OPT_CERTINFO, 1),
            (pycurl.SSL_VERIFYPEER, int(verify)),
            (pycurl.SSL_VERIFYHOST, 2 if verify else 0),
            (pycurl.HEADERFUNCTION, self._on_header),
            (pycurl.WRITEFUNCTION, self._on_body),
            (pycurl.FORBID_REUSE, int(not probe.keep_alive)),
            (pycurl.FRESH_CONNECT, int(not probe.keep_alive)),
            (pycurl.HTTP_VERSION, self._http_version()),
        ):
            handle.setopt(option, value)
        self._set_request(handle)
        self._set_trust(handle)
        if probe.proxy_headers:
            handle.setopt(pycurl.HEADEROPT, pycurl.HEADER_SEPARATE)
            handle.setopt(pycurl.PROXYHEADER, [f"{name}: {value}" for name, value in probe.proxy_headers.items()])
        if probe.interface or probe.source_address:
            handle.setopt(
                pycurl.INTERFACE, f"if!{probe.interface}" if probe.interface else f"host!{probe.source_address}"
            )
        if self.failure is not None:  # only to see the certificate that was not trusted
            handle.setopt(pycurl.CONNECT_ONLY, 1)

    def _http_version(self) -> int:
        wanted = str(self.plan.probe.http_version)
        if wanted == "3":
            return int(pycurl.CURL_HTTP_VERSION_3ONLY)
        if wanted == "2":
            # Over TLS it is negotiated; in the clear there is only the server that is known to speak it.
            tls = self.hop.tls
            return int(pycurl.CURL_HTTP_VERSION_2TLS if tls else pycurl.CURL_HTTP_VERSION_2_PRIOR_KNOWLEDGE)
        return int(pycurl.CURL_HTTP_VERSION_1_1)

    def _set_request(self, handle: Any) -> None:
        """Take method, headers and body from the bytes that the fast lane would send."""
        head, _, body = self.hop.request.partition(b"\r\n\r\n")
        lines = head.split(b"\r\n")[1:]
        skip = (b"connection:", b"content-length:")
        handle.setopt(pycurl.USERAGENT, USER_AGENT)
        handle.setopt(pycurl.HTTPHEADER, [line for line in lines if not line.lower().startswith(skip)] + [b"Expect:"])
        if body or self.hop.method in {"POST", "PUT", "PATCH"}:
            handle.setopt(pycurl.POSTFIELDS, body)
        if self.hop.method == "HEAD":
            handle.setopt(pycurl.NOBODY, 1)
        else:
            handle.setopt(pycurl.CUSTOMREQUEST, self.hop.method)
        compression = self.plan.probe.compression
        if compression != "none":
            handle.setopt(pycurl.ACCEPT_ENCODING, "gzip, deflate, br" if compression == "any" else compression)

    def _set_trust(self, handle: Any) -> None:
        tls = self.plan.probe.tls
        set_trust(handle, ca_file=tls.ca_file, cert_file=tls.cert_file, key_file=tls.key_file)
        versions = {"1.0": 4, "1.1": 5, "1.2": 6, "1.3": 7}  # CURL_SSLVERSION_TLSv1_x; shifted for the maximum
        if tls.min_version or tls.max_version:
            lowest = versions[tls.min_version or "1.2"]
            handle.setopt(pycurl.SSLVERSION, lowest | versions.get(tls.max_version, 0) << 16)

    # -- what libcurl calls; nothing here may end the transfer but a return value --------------------------------

    def _on_header(self, line: bytes) -> int | None:
        if line.startswith(b"HTTP/"):
            self.head = None  # after a proxy's answer to CONNECT, or an interim one
            self.buffer = b""
        if self.head is not None:
            return None  # trailers
        self.buffer += line
        try:
            limit = self.plan.probe.header_limit
            if len(self.buffer) > limit:
                raise Refused("too_large", f"the headers have more than {limit} bytes")
            if line in {b"\r\n", b"\n"} and self.buffer != line:
                head = curl_head(bytes(self.buffer))
                if head.status >= 200:
                    self.head = head
        except Refused as refused:
            self.refused = refused
            return 0
        return None

    def _on_body(self, data: bytes) -> int | None:
        head = self.head
        if head is None or (head.status in REDIRECTS and self.plan.probe.follow_redirects):
            return None
        try:
            body = self.body or self._begin_body(head)
            body.length = -1  # framing is libcurl's business
            if body.feed(data):
                self.enough = True
                return 0
        except Refused as refused:
            self.refused = refused
            return 0
        return None

    def _begin_body(self, head: Head) -> Body:
        probe = self.plan.probe
        body = body_of(head, self.hop.method, probe.body_limit, probe.body_over == "truncate", self.keep)
        body.chunked = False
        if probe.compression != "none":
            body.encoding, body.decoder = "", None  # libcurl decodes
        self.body = body
        return body

    def transferred(self, code: int, message: str) -> None:
        """libcurl is done with one request."""
        handle = self.handle
        self._read_info(handle)
        if self.failure is not None:
            self._finish(perf_counter())
        elif self.refused is not None:
            self.fail(self.refused.reason, self.refused.message)
        elif code == pycurl.E_PEER_FAILED_VERIFICATION and self.hop.tls:
            self.failure = ("certificate", f"certificate of {self.hop.place.host}: {message}")
            self._drop_handle()
            self._transfer(verify=False)
        elif code and not self.enough:
            self.fail(_reason(code, int(handle.getinfo(pycurl.OS_ERRNO)), message), f"{self.hop.place.host}: {message}")
        elif self.head is None:
            self.fail("protocol", "no headers")
        else:
            self._answered(self.head)

    def _answered(self, head: Head) -> None:
        if head.status in REDIRECTS and self._redirect(head):
            return
        try:
            body = self.body or self._begin_body(head)
            body.check()
        except Refused as refused:
            self.fail(refused.reason, refused.message)
            return
        text = head.headers.get("content-length", "").strip()
        body.length = int(text) if text.isascii() and text.isdigit() else -1
        self._finish(perf_counter())

    def _read_info(self, handle: Any) -> None:
        """Add libcurl's timings to ours, and take address and certificates."""
        resolved, connected, secured, sent, first, total = (
            handle.getinfo(item)
            for item in (
                pycurl.NAMELOOKUP_TIME,
                pycurl.CONNECT_TIME,
                pycurl.APPCONNECT_TIME,
                pycurl.PRETRANSFER_TIME,
                pycurl.STARTTRANSFER_TIME,
                pycurl.TOTAL_TIME,
            )
        )
        self.connect_s += max(0.0, connected - resolved) if connected else 0.0
        self.tls_s += max(0.0, secured - connected) if secured else 0.0
        self.first_byte_s += max(0.0, first - sent) if first else 0.0
        self.transfer_s += max(0.0, total - first) if first else 0.0
        address = literal(handle.getinfo(pycurl.PRIMARY_IP) or "")
        if address is not None:
            self.address = address
        chain = []
        for certificate in handle.getinfo(pycurl.INFO_CERTINFO) or ():
            pem = dict(certificate).get("Cert", "")
            if pem.startswith("-----BEGIN"):
                chain.append(ssl.PEM_cert_to_DER_cert(pem))
        if chain:
            self.chain = tuple(chain)

    def cut(self) -> None:
        self.broken(RuntimeError("the probe engine was closed"))

    def _drop_handle(self) -> None:
        handle, self.handle = self.handle, None
        if handle is not None and self.lane is not None:
            self.lane.remove(handle)

    def _disconnect(self) -> None:
        super()._disconnect()
        self._drop_handle()


def curl_head(raw: bytes) -> Head:
    """Parse a head as libcurl hands it out, whose first line may be `HTTP/2 200 `.

    Raises: Refused.
    """
    first, newline, rest = raw.partition(b"\n")
    version, _, status = first.partition(b" ")
    if version in {b"HTTP/2", b"HTTP/3", b"HTTP/2.0", b"HTTP/3.0"}:
        head = parse_head(b"HTTP/1.1 " + status.strip() + b"\r" + newline + rest)
        head.version = float(version[5:6])
        head.raw = raw
        return head
    return parse_head(raw)


def _reason(code: int, number: int, message: str) -> str:
    """Return the word of REASONS; number: the operating system's error, 0 for none."""
    if code in _CONNECTION and number:
        return reason_of(OSError(number, ""))
    if code == _QUIC_ERROR and ("ssl" in message.lower() or "certificate" in message.lower()):
        return "tls"
    if message.startswith("Failed to connect"):
        return "unreachable"  # over UDP a refusal comes when sending or reading
    return _REASONS.get(code, "protocol")


def launch_slow(plan: HttpPlan, attempt: Attempt, done: Done) -> Cancel:
    """Launch an attempt on libcurl; the lane is made at the first one and closed with the engine."""
    engine: Engine = attempt.env.engine
    lane = attempt.env.extra.get("http.curl")
    if lane is None or lane.closed:
        lane = attempt.env.extra["http.curl"] = CurlLoop()
        engine.at_close(lane.close)
    running = CurlAttempt(engine, plan, attempt, done)
    running.lane = lane
    running.launch()
    return running.cancel
