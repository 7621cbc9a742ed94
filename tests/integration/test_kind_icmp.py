"""The icmp kind in a network of its own: an address that never answers, a router that refuses, both socket kinds."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.probing import ask, open_descriptors

from dogwatch.probes.icmp_socket import checksum
from dogwatch.probes.kinds.icmp import IcmpProbe
from dogwatch.probes.progress import ProbeFailed

ROOT = Path(__file__).parents[2]
NETWORK = """
set -e
ip link set lo up
echo "$RANGE" > /proc/sys/net/ipv4/ping_group_range
ip link add near type veth peer name far
unshare --net sleep 60 & router=$!
trap 'kill $router' EXIT
for try in 1 2 3 4 5 6 7 8 9 10; do
    [ "$(readlink /proc/$router/ns/net)" != "$(readlink /proc/self/ns/net)" ] && break; sleep 0.05
done
ip link set far netns $router
ip addr add 10.9.0.1/24 dev near
ip link set near up
nsenter --net=/proc/$router/ns/net sh -ec 'ip link set lo up; ip addr add 10.9.0.2/24 dev far; ip link set far up
ip route add blackhole 198.51.100.0/24; ip route add 192.0.2.128/25 via 10.9.0.1
echo 1 > /proc/sys/net/ipv4/ip_forward'
ip route add 203.0.113.0/24 via 10.9.0.2
ip route add 198.51.100.0/24 via 10.9.0.2
ip route add 192.0.2.128/25 via 10.9.0.2
"$PYTHON" -c "$SCRIPT"
"""
SCRIPT = """
import asyncio, json, socket
from dogwatch.probes.icmp_socket import EchoSocket
from dogwatch.probes.kinds.icmp import IcmpProbe
from tests.probing import ask

async def main():
    found = {}
    def keep(name, result):
        found[name] = [result.success, result.reason, result.message, dict(result.values), result.duration_s]
    keep("self", await ask(IcmpProbe(host="127.0.0.1", count=3, interval=0.01)))
    keep("self6", await ask(IcmpProbe(host="::1", count=2, interval=0.01)))
    keep("router", await ask(IcmpProbe(host="10.9.0.2", ttl=9, payload=1000, dont_fragment=True)))
    keep("silent", await ask(IcmpProbe(host="198.51.100.9", count=2, interval=0.01), 0.3))
    keep("no_route", await ask(IcmpProbe(host="192.0.2.1"), 1))
    keep("refused", await ask(IcmpProbe(host="203.0.113.5"), 1))
    keep("too_far", await ask(IcmpProbe(host="192.0.2.200", ttl=1), 1))
    keep("too_big", await ask(IcmpProbe(host="10.9.0.2", payload=3000, dont_fragment=True), 1))
    many = await asyncio.gather(*(ask(IcmpProbe(host=f"127.0.0.{n % 250 + 1}"), 5) for n in range(400)))
    found["many"] = sum(result.success and result.values["received"] == 1 for result in many)
    for family in (socket.AF_INET, socket.AF_INET6):
        echo = EchoSocket(family, ttl=0, dont_fragment=False, source="")
        found[f"raw{family:d}"] = echo.raw
        echo.close()
    print(json.dumps(found))

asyncio.run(main())
"""


def in_a_network(ping_group_range: str) -> dict[str, Any]:
    if os.geteuid() != 0:
        pytest.skip("a network namespace needs root")
    missing = [program for program in ("ip", "unshare", "nsenter") if shutil.which(program) is None]
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)}")
    if subprocess.run(["unshare", "--net", "true"], capture_output=True, check=False).returncode:
        pytest.skip("network namespaces are not allowed here")
    done = subprocess.run(
        ["unshare", "--net", "sh", "-c", NETWORK],
        env={**os.environ, "RANGE": ping_group_range, "PYTHON": sys.executable, "SCRIPT": SCRIPT},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.mark.serial
@pytest.mark.parametrize(("ping_group_range", "raw"), [("0 2147483647", False), ("1 0", True)])
def test_in_a_network_of_its_own(ping_group_range: str, raw: bool) -> None:
    found = in_a_network(ping_group_range)
    assert (found["raw2"], found["raw10"]) == (raw, raw)
    for name, count in (("self", 3), ("self6", 2), ("router", 1)):
        success, _, message, values, _ = found[name]
        assert success, message
        assert (values["sent"], values["received"], values["loss_ratio"]) == (count, count, 0)
        assert values["hop_limit"] == 64
        assert 0 < values["rtt_min_s"] <= values["rtt_avg_s"] <= values["rtt_max_s"] < 1
    success, reason, message, values, duration_s = found["silent"]
    assert (success, reason) == (False, "timeout"), message
    assert message == "198.51.100.9: 2 of 2 echo requests had no reply within 0.3 s"
    assert values["loss_ratio"] == 1
    assert 0.25 < duration_s < 0.4
    assert found["no_route"][1] == "unreachable"
    assert found["refused"][1] == "unreachable"
    assert "destination unreachable" in found["refused"][2]
    assert found["too_far"][1] == "unreachable"
    assert "time to live" in found["too_far"][2]
    assert found["too_far"][4] < 0.5, "what a router says is not waited out"
    assert not found["too_big"][0]
    assert found["many"] == 400


async def test_without_permission_it_says_what_to_do() -> None:
    """In a process that may not, since this one may."""
    if os.geteuid() != 0:
        pytest.skip("needs root to give rights up")
    code = (
        "import os, asyncio; from dogwatch.probes.kinds.icmp import IcmpProbe; from tests.probing import ask\n"
        "os.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
        "r = asyncio.run(ask(IcmpProbe(host='127.0.0.1'))); print(r.reason, r.message)"
    )
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", code, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    out, err = await process.communicate()
    if out.startswith(b" "):
        pytest.skip("everybody may send echo requests here")
    assert out.startswith(b"local not allowed"), err
    assert b"net.ipv4.ping_group_range" in out


async def test_descriptors_return(tmp_path: Path) -> None:
    try:
        await ask(IcmpProbe(host="127.0.0.1"))
        before = open_descriptors()
        await asyncio.gather(*(ask(IcmpProbe(host="127.0.0.1", count=2, interval=0.001)) for _ in range(50)))
    except ProbeFailed:
        pytest.skip("not allowed to send echo requests here")
    assert open_descriptors().keys() <= before.keys()


def test_checksum() -> None:
    """The example of RFC 1071, and the property that receivers use."""
    assert checksum(bytes.fromhex("0001f203f4f5f6f7")) == 0xFFFF - 0xDDF2
    packet = b"\x08\x00\x00\x00\x12\x34\x00\x01odd"
    whole = packet[:2] + checksum(packet).to_bytes(2, "big") + packet[4:]
    assert checksum(whole) == 0
