"""The `dns` kind."""

from __future__ import annotations

import asyncio
import ipaddress
import secrets
import socket
import ssl
from collections.abc import Iterator, Mapping
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import msgspec
from msgspec import Meta

from dogwatch.probes.addresses import SocketAddress, join_host_port, literal, resolve_host, split_host_port
from dogwatch.probes.patterns import matches, pattern_faults
from dogwatch.probes.probe import Attempt
from dogwatch.probes.progress import ProbeFailed, Progress, SteppedProbe, failure_of, inner_timeout
from dogwatch.probes.stream import Destination, open_stream
from dogwatch.probes.trust import TlsOptions, tls_failure, tls_option_faults

if TYPE_CHECKING:
    from dns.message import Message

Fault = tuple[tuple[str | int, ...], str, str]
Patterns = Annotated[tuple[str, ...], Meta(max_length=50)]
_RESOLV_CONF = Path("/etc/resolv.conf")
_PORTS = {"udp": 53, "tcp": 53, "tls": 853}
_MAX_SHOWN = 100
_TEXT_TYPES = frozenset({"TXT", "SPF", "CAA", "HINFO", "NAPTR"})


class RecordChecks(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the records of one section must look like, each as the text of a zone file: `a.example. 60 IN A 192.0.2.1`.

    fail_if_matches: no record may match any of these expressions (RE2). fail_if_all_match: not all may match all.
    fail_if_not_matches: every record must match every one. fail_if_none_matches: one record at least must match each.
    min_records: fewer fail; default 0. tabs: what the expressions see has tabs between name, TTL, class, type and data;
    default false: spaces.
    """

    fail_if_matches: Patterns = ()
    fail_if_all_match: Patterns = ()
    fail_if_not_matches: Patterns = ()
    fail_if_none_matches: Patterns = ()
    min_records: Annotated[int, Meta(ge=0)] = 0
    tabs: bool = False

    def faults(self, section: str) -> list[Fault]:
        found: list[Fault] = []
        for name in ("fail_if_matches", "fail_if_all_match", "fail_if_not_matches", "fail_if_none_matches"):
            for number, expression in enumerate(getattr(self, name)):
                found += pattern_faults(expression, section, name, number)
        return found

    def complaint(self, records: list[str]) -> str:
        """Return what is wrong with a section's records, "" if nothing."""
        if len(records) < self.min_records:
            return f"has {len(records)} records, wanted at least {self.min_records}"
        for expression in self.fail_if_matches:
            for record in records:
                if matches(expression, record):
                    return f"has '{record}', which matches '{expression}'"
        for expression in self.fail_if_not_matches:
            for record in records:
                if not matches(expression, record):
                    return f"has '{record}', which does not match '{expression}'"
        for expression in self.fail_if_all_match:
            if records and all(matches(expression, record) for record in records):
                return f"has only records that match '{expression}'"
        for expression in self.fail_if_none_matches:
            if not any(matches(expression, record) for record in records):
                return f"has no record that matches '{expression}'"
        return ""


class DnsProbe(SteppedProbe, frozen=True, kw_only=True):
    """Asks a DNS server one question and judges the answer.

    name: what to ask for; for PTR also an IP address. type: record type: A, AAAA, CNAME, MX, TXT, NS, SOA, SRV, PTR,
    CAA, DS, ANY or any other that has a name; default A. server: `host`, `host:port`; default: the first of
    /etc/resolv.conf. class_: as `class_: CH`; default IN. transport: udp (again over tcp when the answer was cut), tcp
    or tls; default udp. ip_version: 4 or 6, how to reach the server; default: whichever answers. ip_fallback: take
    the other one if the server's name has none of that; default false. source: our own address; default: the system's
    choice. recursion: ask for it; default true. dnssec: ask for signatures (DO) and
    fail unless the server says that it verified the answer (AD); default false. edns_payload: size announced, in
    bytes, 0 for no EDNS; default 1232. rcode: codes that are a success; default NOERROR. values: what the answer must
    hold: addresses, names, or texts as in a zone file without name and TTL; default: anything. match: how `values` are
    compared: exact (these and no others, in any order), contains (these among others), any (one of these) or regex
    (each expression is matched by a record); default contains. answer, authority, additional: checks of a whole
    section's records. tls: options for transport tls.
    """

    kind: ClassVar[str] = "dns"
    short: ClassVar[str] = "name"
    variables: ClassVar[dict[str, str]] = {
        "ip": "string",
        "ip_version": "int",
        "rcode": "string",
        "answer": "list",
        "answer_rrs": "int",
        "authority_rrs": "int",
        "additional_rrs": "int",
        "authentic": "bool",
        "authoritative": "bool",
        "truncated": "bool",
        "ttl_min_s": "int",
        "serial": "int",
        "query_succeeded": "bool",
        "query_s": "double",
        "lookup_s": "double",
        "connect_s": "double",
    }
    meanings: ClassVar[Mapping[str, str]] = {
        "ip": "address that answered",
        "ip_version": "4 or 6",
        "rcode": "such as NOERROR or NXDOMAIN",
        "answer": "values of the answer's records",
        "answer_rrs": "records in the answer section",
        "authority_rrs": "records in the authority section",
        "additional_rrs": "records in the additional section",
        "authentic": "whether the server vouches for DNSSEC (AD)",
        "authoritative": "whether the server is authoritative (AA)",
        "truncated": "whether the answer was cut (TC)",
        "ttl_min_s": "lowest time to live in the answer",
        "serial": "serial of the SOA record",
        "query_succeeded": "whether an answer came at all",
        "query_s": "time from question to answer",
        "lookup_s": "time to resolve the server's name",
        "connect_s": "time to connect to the server",
    }
    metrics: ClassVar[dict[str, tuple[str, str]]] = {
        "ip_version": ("probe_ip_protocol", "Specifies whether probe ip protocol is IP4 or IP6"),
        "answer_rrs": ("probe_dns_answer_rrs", "Returns number of entries in the answer resource record list"),
        "authority_rrs": ("probe_dns_authority_rrs", "Returns number of entries in the authority resource record list"),
        "additional_rrs": (
            "probe_dns_additional_rrs",
            "Returns number of entries in the additional resource record list",
        ),
        "query_succeeded": ("probe_dns_query_succeeded", "Displays whether or not the query was executed successfully"),
        "serial": ("probe_dns_serial", "Returns the serial number of the zone"),
        "lookup_s": ('probe_dns_duration_seconds{phase="resolve"}', "Duration of DNS request by phase"),
        "connect_s": ('probe_dns_duration_seconds{phase="connect"}', "Duration of DNS request by phase"),
        "query_s": ('probe_dns_duration_seconds{phase="request"}', "Duration of DNS request by phase"),
    }

    name: str
    type: str = "A"
    server: str = ""
    class_: str = "IN"
    transport: Literal["udp", "tcp", "tls"] = "udp"
    ip_version: Literal[4, 6] | None = None
    ip_fallback: bool = False
    source: str = ""
    recursion: bool = True
    dnssec: bool = False
    edns_payload: Annotated[int, Meta(ge=0, le=65535)] = 1232
    rcode: tuple[str, ...] = ("NOERROR",)
    values: Patterns = ()
    match: Literal["exact", "contains", "any", "regex"] = "contains"
    answer: RecordChecks = RecordChecks()
    authority: RecordChecks = RecordChecks()
    additional: RecordChecks = RecordChecks()
    tls: TlsOptions = TlsOptions()

    def address(self) -> str:
        return f"{self.name} {self.type.upper()}{f' @{self.server}' if self.server else ''}"

    def faults(self) -> list[Fault]:
        found = list(self._word_faults())
        if not found:
            try:
                self._query()
            except (ValueError, _dns_error()) as error:
                told = str(error).rstrip(".")
                found.append((("name",), f"'{self.name[:100]}' cannot be asked for: {told[:1].lower()}{told[1:]}", ""))
        if self.server:
            try:
                split_host_port(self.server)
            except ValueError as error:
                found.append((("server",), str(error), ""))
        known = _rcode_names()
        for number, code in enumerate(self.rcode):
            if code.upper() not in known:
                found.append((("rcode", number), f"'{code}' is not a response code", "such as NOERROR or NXDOMAIN"))
        if self.match == "regex":
            for number, expression in enumerate(self.values):
                found += pattern_faults(expression, "values", number)
        for section in ("answer", "authority", "additional"):
            found += getattr(self, section).faults(section)
        return found + tls_option_faults(self.tls)

    def _word_faults(self) -> Iterator[Fault]:
        import dns.rdataclass
        import dns.rdatatype

        try:
            dns.rdatatype.from_text(self.type.upper())
        except (ValueError, _dns_error()):
            yield ("type",), f"'{self.type[:60]}' is no type of record", "such as A, AAAA, MX, TXT, SRV or TYPE65"
        try:
            dns.rdataclass.from_text(self.class_.upper())
        except (ValueError, _dns_error()):
            yield ("class_",), f"'{self.class_[:60]}' is no class of records", "nearly always IN"

    def _query(self) -> Message:
        import dns.message
        import dns.reversename

        name: Any = self.name
        if self.type.upper() == "PTR" and _is_address(self.name):
            name = dns.reversename.from_address(self.name)
        edns = 0 if self.edns_payload or self.dnssec else -1
        query = dns.message.make_query(
            name,
            self.type.upper(),
            self.class_.upper(),
            use_edns=edns,
            want_dnssec=self.dnssec,
            payload=self.edns_payload or 1232,
            id=secrets.randbelow(65536),
        )
        if not self.recursion:
            query.flags &= ~_RD
        if self.dnssec:
            query.flags |= _AD
        return query

    async def ask(self, attempt: Attempt, progress: Progress) -> None:
        progress.values["query_succeeded"] = False
        query = self._query()
        host, port = self._server()
        if self.transport == "udp":
            wire = await self._over_udp(attempt, progress, query, (host, port))
        else:
            wire = await self._over_stream(attempt, progress, query, (host, port))
        response = _parsed(wire, query)
        if response.flags & _TC and self.transport == "udp":
            wire = await self._over_stream(attempt, progress, query, (host, port))
            response = _parsed(wire, query)
        progress.values["query_succeeded"] = True
        self._judge(response, progress)

    def _server(self) -> tuple[str, int]:
        if self.server:
            return split_host_port(self.server, _PORTS[self.transport])
        return _system_server(), _PORTS[self.transport]

    async def _over_udp(self, attempt: Attempt, progress: Progress, query: Message, server: tuple[str, int]) -> bytes:
        loop = asyncio.get_running_loop()
        started = perf_counter()
        deadline = loop.time() + inner_timeout(attempt.timeout_s)
        addresses = await resolve_host(attempt, *server, self.ip_version, deadline, fallback=self.ip_fallback)
        family, sockaddr = addresses[0]
        progress.resolve_s = progress.values["lookup_s"] = perf_counter() - started
        progress.values.update({"ip": sockaddr[0], "ip_version": 6 if family == socket.AF_INET6 else 4})
        progress.doing = f"waiting for an answer from {join_host_port(*server)} over UDP"
        asked = perf_counter()
        try:
            wire = await _exchange_udp(family, sockaddr, self.source, query)
        except OSError as error:
            raise failure_of(error, f"cannot ask {join_host_port(*server)}") from error
        progress.first_byte_s = progress.values["query_s"] = perf_counter() - asked
        return wire

    async def _over_stream(
        self, attempt: Attempt, progress: Progress, query: Message, server: tuple[str, int]
    ) -> bytes:
        host, port = server
        to = Destination(
            host=host, port=port, ip_version=self.ip_version, ip_fallback=self.ip_fallback, source=self.source
        )
        with await open_stream(attempt, to, progress) as stream:
            if self.transport == "tls":
                try:
                    await stream.start_tls(self.tls, host, ("dot",))
                except ssl.SSLError as error:
                    raise tls_failure(error, stream.address) from error
            progress.doing = f"waiting for an answer from {stream.address} over {self.transport.upper()}"
            asked = perf_counter()
            wire = query.to_wire()
            await stream.send(len(wire).to_bytes(2, "big") + wire)
            length = int.from_bytes(await stream.read_exactly(2), "big")
            answer = await stream.read_exactly(length)
        progress.values.update({"lookup_s": progress.resolve_s, "connect_s": progress.connect_s + progress.tls_s})
        progress.first_byte_s = progress.values["query_s"] = perf_counter() - asked
        return answer

    def _judge(self, response: Message, progress: Progress) -> None:
        import dns.rcode

        answer, authority, additional = (_lines(section) for section in _sections(response))
        data = _data(response, self.type.upper())
        code = dns.rcode.to_text(response.rcode())
        progress.hear(str(response).encode())
        progress.values.update(
            {
                "rcode": code,
                "answer": data[:_MAX_SHOWN],
                "answer_rrs": len(answer),
                "authority_rrs": len(authority),
                "additional_rrs": len(additional),
                "authentic": bool(response.flags & _AD),
                "authoritative": bool(response.flags & _AA),
                "truncated": bool(response.flags & _TC),
            }
        )
        progress.values.update(_optional_values(response))
        if code not in {wanted.upper() for wanted in self.rcode}:
            raise ProbeFailed("status", f"{self.address()}: the server said {code}")
        if self.dnssec and not response.flags & _AD:
            raise ProbeFailed("mismatch", f"{self.address()}: the server did not verify the answer by DNSSEC")
        complaint = self._values_complaint(data)
        for section, records in (("answer", answer), ("authority", authority), ("additional", additional)):
            checks: RecordChecks = getattr(self, section)
            wrong = checks.complaint([one.replace(" ", "\t", 4) for one in records] if checks.tabs else records)
            complaint = complaint or (wrong and f"the {section} section {wrong}")
        if complaint:
            raise ProbeFailed("mismatch", f"{self.address()}: {complaint}")

    def _values_complaint(self, data: list[str]) -> str:
        if not self.values:
            return ""
        got = f"got {', '.join(data[:10]) or 'none'}"
        if self.match == "regex":
            missing = [wanted for wanted in self.values if not any(matches(wanted, item) for item in data)]
            return f"no record matches '{missing[0]}'; {got}" if missing else ""
        texts = self.type.upper() in _TEXT_TYPES
        wanted_set = {_canonical(item, texts) for item in self.values}
        have = {_canonical(item, texts) for item in data}
        if self.match == "any":
            return "" if wanted_set & have else f"none of the expected values; {got}"
        missing = sorted(wanted_set - have)
        if missing:
            return f"'{missing[0]}' is missing; {got}"
        extra = sorted(have - wanted_set)
        return f"'{extra[0]}' is not expected; {got}" if extra and self.match == "exact" else ""


_RD, _AD, _AA, _TC = 0x0100, 0x0020, 0x0400, 0x0200


def _dns_error() -> type[Exception]:
    import dns.exception

    return dns.exception.DNSException


def _rcode_names() -> set[str]:
    import dns.rcode

    return {code.name for code in dns.rcode.Rcode}


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def _system_server() -> str:
    """Return the first server of resolv.conf; read each time, so that a change is seen."""
    try:
        lines = _RESOLV_CONF.read_text(errors="replace").splitlines()[:100]
    except OSError:
        lines = []
    for line in lines:
        words = line.split()
        if len(words) > 1 and words[0] == "nameserver" and literal(words[1], 53):
            return words[1]
    return "127.0.0.1"


async def _exchange_udp(family: int, sockaddr: SocketAddress, source: str, query: Message) -> bytes:
    """Send a query and return the answer to it; what else arrives (late, forged) is passed over."""
    loop = asyncio.get_running_loop()
    wire = query.to_wire()
    with socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC) as sock:
        if source:
            sock.bind((source, 0))
        sock.connect(sockaddr)  # the kernel then drops what comes from elsewhere, and tells of ICMP errors
        sock.send(wire)
        while True:
            answer = await loop.sock_recv(sock, 65535)
            if answer[:2] == wire[:2] and len(answer) > 12 and answer[2] & 0x80 and _same_question(answer, wire):
                return answer


def _same_question(answer: bytes, query: bytes) -> bool:
    """Return whether the question is the one asked: an answer's id alone can be guessed."""
    end = 12
    while query[end]:
        end += query[end] + 1
    end += 5
    # An answer without a question (some error answers) is let through; letters may come back in another case.
    return answer[4:6] == b"\0\0" or answer[12:end].lower() == query[12:end].lower()


def _parsed(wire: bytes, query: Message) -> Message:
    import dns.message

    try:
        return dns.message.from_wire(wire, ignore_trailing=True, question_only=False)
    except (_dns_error(), ValueError, IndexError, KeyError) as error:
        name = query.question[0].name
        raise ProbeFailed("protocol", f"{name}: the answer cannot be read: {error or type(error).__name__}") from error


def _sections(response: Message) -> list[list[Any]]:
    return [response.answer, response.authority, response.additional]


def _lines(section: list[Any]) -> list[str]:
    return [line for rrset in section for line in rrset.to_text().splitlines()]


def _data(response: Message, type_: str) -> list[str]:
    """Return the answer's data without name and TTL; of the type asked for, and of any where that was ANY."""
    import dns.rdatatype

    records = [rrset for rrset in response.answer if type_ in ("ANY", dns.rdatatype.to_text(rrset.rdtype))]
    return [record.to_text() for rrset in records for record in rrset]


def _optional_values(response: Message) -> dict[str, int]:
    import dns.rdatatype

    values: dict[str, int] = {}
    if response.answer:
        values["ttl_min_s"] = min(rrset.ttl for rrset in response.answer)
    for rrset in [*response.answer, *response.authority]:
        if rrset.rdtype == dns.rdatatype.SOA:
            values["serial"] = rrset[0].serial
            break
    return values


def _canonical(text: str, texts: bool) -> str:
    """Return a value so that what means the same compares equal: case, final dots, quotes, forms of IPv6."""
    text = text.strip()
    if texts:
        return text.replace('" "', "").replace('"', "")
    if _is_address(text):
        return str(ipaddress.ip_address(text))
    return text.lower().removesuffix(".")
