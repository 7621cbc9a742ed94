"""Who makes a request, and what that one may do."""

from __future__ import annotations

from typing import Literal

import msgspec

from dogwatch.access.actor import Actor
from dogwatch.access.permissions import BUILT_IN, Rights


class Identity(msgspec.Struct, frozen=True, kw_only=True):
    """how: local (this machine, while there are no users, or over the admin socket), session (a browser), token,
    certificate (a client's, over TLS), or anonymous. user: name of the user behind it, "" for none. csrf: of the
    session; what its forms must repeat.
    key: of the session or token, for ending it.
    """

    actor: Actor
    rights: Rights
    how: Literal["local", "session", "token", "certificate", "anonymous"]
    user: str = ""
    csrf: str = ""
    key: str = ""

    @property
    def known(self) -> bool:
        return self.how != "anonymous"


ALL_RIGHTS = Rights((BUILT_IN["admin"],))
VIEW_RIGHTS = Rights((BUILT_IN["viewer"],))
NO_RIGHTS = Rights(())


def local(name: str, address: str = "", rights: Rights = ALL_RIGHTS) -> Identity:
    return Identity(actor=Actor(kind="local", name=name, address=address), rights=rights, how="local")


def anonymous(address: str = "") -> Identity:
    return Identity(actor=Actor(kind="anonymous", name="", address=address), rights=NO_RIGHTS, how="anonymous")
