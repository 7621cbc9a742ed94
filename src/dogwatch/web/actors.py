"""Who asks over HTTP."""

from __future__ import annotations

from typing import Any

from litestar import Request

from dogwatch.access.actor import Actor


def actor_of(request: Request[Any, Any, Any]) -> Actor:
    """Return who sent a request: until somebody has logged in, whoever may reach this address (server.writes)."""
    address = request.client.host if request.client else ""
    return Actor(kind="local", name="web", address=address)
