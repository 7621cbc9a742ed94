"""The seam by which a feature adds pages to the console: its handlers, and its entry in the navigation."""

from __future__ import annotations

from typing import Any

import msgspec


class Place(msgspec.Struct, frozen=True):
    """An entry of the navigation. Pages below its path belong to it. noun: shown to who may read such; "" for all."""

    title: str
    path: str
    noun: str = ""

    def holds(self, path: str) -> bool:
        return path == self.path or (self.path != "/" and path.startswith(f"{self.path}/"))


class Pages(msgspec.Struct, frozen=True, kw_only=True):
    """What a feature shows. handlers: Litestar's, pages and fragments."""

    handlers: tuple[Any, ...]
    places: tuple[Place, ...] = ()
