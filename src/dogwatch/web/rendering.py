"""Turns a template and its values into an answer."""

from __future__ import annotations

from typing import Any

from litestar import Response

from dogwatch.web.context import WebContext


def html(
    ctx: WebContext, template: str, values: dict[str, Any], status: int = 200, *, here: str = ""
) -> Response[bytes]:
    """Return a page. here: its path, to mark its place in the navigation."""
    text = ctx.templates.get_template(template).render(
        options=ctx.options,
        version=ctx.services.version,
        now_s=ctx.services.clock.now_s(),
        base_url=ctx.options.external_url.rstrip("/"),
        places=[(place, place.holds(here)) for place in ctx.places],
        **values,
    )
    # A lone surrogate in a name must not cost the page.
    return Response(text.encode("utf-8", "replace"), status_code=status, media_type="text/html")
