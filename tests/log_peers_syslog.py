"""Other people's syslog over TLS, both ways: rsyslog with each of its two libraries, and syslog-ng.

Debian's packages of the two exclude each other: `scripts/install-log-peers` unpacks syslog-ng.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.log_peers import CACHE, Peer, program
from tests.log_peers_secure import Certificates

_DRIVERS = {"gnutls": "gtls", "openssl": "ossl"}
WAYS = ("gnutls", "openssl", "syslog-ng")
_TEMPLATE = "${.SDATA.dogwatch@32473.id}\\t${MESSAGE}\\n"
UNPACKED = CACHE / "syslog-ng"


class Other(Peer):
    """A syslog daemon with a certificate. way: one of WAYS. out: what it received, `id TAB message`."""

    def __init__(self, way: str) -> None:
        super().__init__()
        self.way = way
        self.certificates = Certificates(self.folder)
        self.out = self.folder / "out.log"
        self.config = self.folder / "conf"
        self._listens = True
        if way == "syslog-ng":
            self._binary = str(UNPACKED / "usr/sbin/syslog-ng")
            if not Path(self._binary).exists():
                pytest.skip("syslog-ng is not unpacked")
        else:
            self._binary = program("rsyslogd")
            if not list(Path("/usr/lib").glob(f"*/rsyslog/lmnsd_{_DRIVERS[way]}.so")):
                pytest.skip(f"rsyslog-{way} is not installed")

    def ready(self) -> bool:
        return super().ready() if self._listens else True

    def command(self) -> Sequence[str]:
        if self.way == "syslog-ng":
            places = ["-R", f"{self.folder}/persist", "-c", f"{self.folder}/ctl", "-p", f"{self.folder}/pid"]
            return (self._binary, "-F", "--no-caps", "-f", str(self.config), *places)
        return (self._binary, "-n", "-f", str(self.config), "-i", f"{self.folder}/pid")

    def environment(self) -> dict[str, str]:
        if self.way != "syslog-ng":
            return super().environment()
        parts = ("usr/lib/x86_64-linux-gnu", "lib/x86_64-linux-gnu", "usr/lib/syslog-ng")
        path = ":".join(str(UNPACKED / one) for one in parts)
        return {**os.environ, "LD_LIBRARY_PATH": path, "SYSLOGNG_PREFIX": str(UNPACKED / "usr")}

    def _driver(self, certificate: Path, ca: Path) -> str:
        return (
            f'global(maxMessageSize="1024k" defaultNetstreamDriver="{_DRIVERS[self.way]}" '
            f'defaultNetstreamDriverCAFile="{ca}" defaultNetstreamDriverCertFile="{certificate}" '
            f'defaultNetstreamDriverKeyFile="{certificate}")\n'
        )

    def receive(self) -> None:
        """Be a server that wants certificates of its authority."""
        files = self.certificates
        if self.way == "syslog-ng":
            self.config.write_text(
                "@version: 3.38\noptions { stats-freq(0); log-msg-size(1048576); };\n"
                f"source s {{ syslog(ip(127.0.0.1) port({self.port}) transport(tls) tls(key-file({files.server}) "
                f"cert-file({files.server}) ca-file({files.ca}) peer-verify(required-trusted))); }};\n"
                f'destination d {{ file("{self.out}" template("{_TEMPLATE}")); }};\n'
                "log { source(s); destination(d); };\n"
            )
            return
        self.config.write_text(
            self._driver(files.server, files.ca) + f'module(load="imtcp" StreamDriver.Name="{_DRIVERS[self.way]}" '
            'StreamDriver.Mode="1" StreamDriver.AuthMode="x509/certvalid")\n'
            f'input(type="imtcp" address="127.0.0.1" port="{self.port}")\n'
            'template(name="all" type="string" string="%structured-data%\\t%msg:::drop-last-lf%\\n")\n'
            f'action(type="omfile" file="{self.out}" template="all")\n'
        )

    def forward(self, source: Path, port: int, *, certificate: Path, ca: Path) -> None:
        """Be a client that follows a file, and calls itself `app`."""
        self._listens = False
        if self.way == "syslog-ng":
            self.config.write_text(
                "@version: 3.38\noptions { stats-freq(0); time-reopen(1); };\n"
                f'source s {{ file("{source}" flags(no-parse) follow-freq(0.1) program-override("app")); }};\n'
                f"destination d {{ syslog(localhost port({port}) transport(tls) tls(key-file({certificate}) "
                f"cert-file({certificate}) ca-file({ca}) peer-verify(required-trusted))); }};\n"
                "log { source(s); destination(d); flags(flow-control); };\n"
            )
            return
        self.config.write_text(
            self._driver(certificate, ca) + 'module(load="imfile")\n'
            f'input(type="imfile" File="{source}" Tag="app")\n'
            f'action(type="omfwd" Target="127.0.0.1" Port="{port}" Protocol="tcp" TCP_Framing="octet-counted" '
            f'StreamDriver="{_DRIVERS[self.way]}" StreamDriverMode="1" StreamDriverAuthMode="x509/name" '
            'StreamDriverPermittedPeers="localhost" action.resumeInterval="1" action.resumeRetryCount="-1" '
            'queue.type="linkedList" Template="RSYSLOG_SyslogProtocol23Format")\n'
        )

    def received(self) -> list[tuple[str, str]]:
        """Return (id, message) of each whole line."""
        whole = self.out.read_text().rpartition("\n")[0].splitlines() if self.out.exists() else []
        found = []
        for line in whole:
            data, _tab, message = line.partition("\t")
            found.append(
                (data.partition('id="')[2].partition('"')[0] if "id=" in data else data, message.removeprefix(" "))
            )
        return found


def known(peer: Other, **more: Any) -> dict[str, Any]:
    """Return TLS options of a client whom the peer knows."""
    files = peer.certificates
    return {"ca_file": str(files.ca), "cert_file": str(files.client), "key_file": str(files.client), **more}
