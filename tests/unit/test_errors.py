"""What failed, in the system's words."""

from __future__ import annotations

import errno
import socket
import ssl

import pytest

from dogwatch.errors import reason_of


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (PermissionError(errno.EACCES, "Permission denied", "/srv/logs"), "permission denied: /srv/logs"),
        (OSError(errno.EADDRINUSE, "error while attempting to bind on address"), "address already in use"),
        (socket.gaierror(socket.EAI_NONAME, "Name or service not known"), "name or service not known"),
        (
            ssl.SSLCertVerificationError(
                1, "[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed: no (_ssl.c:1006)"
            ),
            "certificate verify failed: no",
        ),
        (ConnectionResetError("the other side closed the connection"), "the other side closed the connection"),
        (TimeoutError(), "no answer"),
        (ValueError(), "ValueError"),
    ],
)
def test_reasons_have_no_numbers_and_places(error: Exception, said: str) -> None:
    assert reason_of(error) == said
