"""The dns kind against dnsmasq."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from typing import Any

import dns.message
import dns.query
import pytest
from tests.probing import ask, free_port

from dogwatch.probes.kinds.dns import DnsProbe, RecordChecks

RECORDS = (
    "--host-record=a.test,192.0.2.1,2001:db8::1",
    "--cname=www.test,a.test",
    "--txt-record=a.test,v=spf1 -all",
    "--mx-host=a.test,mail.test,10",
    "--srv-host=_http._tcp.a.test,a.test,80,1,2",
    "--caa-record=a.test,0,issue,ca.test",
)


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    program = shutil.which("dnsmasq")
    if program is None:
        pytest.skip("not installed: dnsmasq")
    port = free_port()
    args = ["--keep-in-foreground", "--conf-file=/dev/null", "--no-resolv", "--no-hosts", "--pid-file="]
    where = [f"--port={port}", "--listen-address=127.0.0.1", "--bind-interfaces", "--local=/test/", "--user=" + user()]
    process = subprocess.Popen([program, *args, *where, *RECORDS], stderr=subprocess.PIPE)
    try:
        query = dns.message.make_query("a.test", "A")
        for _ in range(100):
            try:
                dns.query.udp(query, "127.0.0.1", port=port, timeout=0.2)
                break
            except (OSError, dns.exception.DNSException):
                if process.poll() is not None:
                    assert process.stderr is not None
                    pytest.skip(f"dnsmasq does not start here: {process.stderr.read().decode()}")
                time.sleep(0.05)
        yield f"127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(60)
        assert process.stderr is not None
        process.stderr.close()


def user() -> str:
    import pwd

    return pwd.getpwuid(os.geteuid()).pw_name


@pytest.mark.parametrize("transport", ["udp", "tcp"])
@pytest.mark.parametrize(
    ("name", "type_", "values"),
    [
        ("a.test", "A", ("192.0.2.1",)),
        ("a.test", "AAAA", ("2001:DB8:0::1",)),
        ("www.test", "CNAME", ("A.test",)),
        ("a.test", "TXT", ("v=spf1 -all",)),
        ("a.test", "MX", ("10 mail.test",)),
        ("_http._tcp.a.test", "SRV", ("1 2 80 a.test.",)),
        ("a.test", "CAA", ("0 issue ca.test",)),
        ("192.0.2.1", "PTR", ("a.test",)),
    ],
)
async def test_records(server: str, transport: Any, name: str, type_: str, values: tuple[str, ...]) -> None:
    result = await ask(
        DnsProbe(name=name, type=type_, server=server, transport=transport, values=values, match="exact")
    )
    assert result.success, result.message
    assert result.values["rcode"] == "NOERROR"


async def test_what_is_not_there(server: str) -> None:
    result = await ask(DnsProbe(name="nobody.test", server=server))
    assert (result.reason, result.values["rcode"]) == ("status", "NXDOMAIN")
    empty = await ask(DnsProbe(name="www.test", type="A", server=server, answer=RecordChecks(min_records=3)))
    assert empty.reason == "mismatch"


async def test_default_server_comes_from_the_system() -> None:
    """Whatever it is, asking it for a name that cannot exist ends in time and names a reason."""
    result = await ask(DnsProbe(name="nothing.invalid"), 1.0)
    assert result.reason in {"", "status", "timeout", "refused", "unreachable"}
    assert result.values["ip"] in {socket.gethostbyname(result.values["ip"]), result.values["ip"]}
