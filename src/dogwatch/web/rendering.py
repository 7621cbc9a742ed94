"""Turns a template and its values into an answer."""

from __future__ import annotations

from typing import Any

from litestar import Response

from dogwatch.web.context import WebContext


def html_page(
    ctx: WebContext, template: str, values: dict[str, Any], status: int = 200, *, here: str = ""
) -> Response[bytes]:
    """Return a page. Whoever is logged in is told by name, and what is theirs is kept by no cache.

    here: its path, to mark its place in the navigation.
    """
    text = (
        ctx.templates[ctx.words.language]
        .get_template(template)
        .render(
            options=ctx.options,
            me=ctx.identity if ctx.identity.known else None,
            may=ctx.may,
            version=ctx.services.version,
            now_s=ctx.services.clock.now_s(),
            theme=ctx.theme,
            base_url=ctx.options.external_url.rstrip("/"),
            places=[(place, place.holds(here)) for place in ctx.places if not place.noun or ctx.may(place.noun)],
            **values,
        )
    )
    # A lone surrogate in a name must not cost the page.
    headers = {"Cache-Control": "private, no-store"} if ctx.identity.how == "session" else {}
    return Response(text.encode("utf-8", "replace"), status_code=status, media_type="text/html", headers=headers)
