"""A server with users, two of whom see a team only."""

from __future__ import annotations

from dogwatch.access.options import AccessOptions
from dogwatch.access.permissions import Rule
from tests.access import Site

SHOP = {"team": "till"}
OPTIONS = AccessOptions(
    roles={
        "shop": (Rule(nouns=("probe", "host"), verbs=("read", "run"), labels=SHOP),),
        "shop-audit": (Rule(nouns=("audit",), verbs=("read",), labels=SHOP),),
        "hr": (Rule(nouns=("user",), verbs=("read", "create", "change")),),
    }
)


def label(one: Site, *names: str) -> None:
    """Give targets the label team=till."""
    for name in names:
        one.program.watch.replace(name, labels=SHOP)
