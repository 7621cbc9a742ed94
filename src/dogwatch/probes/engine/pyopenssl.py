"""TLS by pyOpenSSL, whose wheel brings a newer OpenSSL than most systems have: a third less CPU per handshake.

An extra (`dogwatch[tls]`), and imported only by the engine that uses it: it costs 11 MB resident.
"""

from __future__ import annotations

import ssl
from typing import Any

from OpenSSL import SSL, crypto

from dogwatch.probes.engine.addresses import literal
from dogwatch.probes.engine.tls import TlsChannel, TlsFailed, TlsPolicy

_VERSIONS = {"1.0": 0x0301, "1.1": 0x0302, "1.2": 0x0303, "1.3": 0x0304}
_READ_BYTES = 65536
_HELLO_BYTES = 4096
# X509_V_ERR_… of what nobody should have to look up come from OpenSSL itself.
_BOTH_SHUTDOWN = SSL.SENT_SHUTDOWN | SSL.RECEIVED_SHUTDOWN


class PyOpenSslChannel:
    """One connection over OpenSSL's memory buffers."""

    __slots__ = ("_connection", "_ended")

    def __init__(self, context: Any, server_name: str, resumption: Any) -> None:
        self._connection = connection = SSL.Connection(context, None)
        self._ended = False
        connection.set_connect_state()
        if server_name:
            address = literal(server_name)
            if address is None:
                connection.set_tlsext_host_name(server_name.encode("ascii"))
            if context.get_verify_mode() != SSL.VERIFY_NONE:
                connection.set_verify(SSL.VERIFY_PEER)
                _expect_name(connection, server_name, is_address=address is not None)
        if resumption is not None:
            connection.set_session(resumption)
