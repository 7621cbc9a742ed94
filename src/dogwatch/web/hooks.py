"""`POST /hooks/<name>`: lets a request in, reads its body within bounds, answers once the delivery is on disk."""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qsl

import msgspec
from litestar import Request, Response, post

from dogwatch.web import problems
from dogwatch.web.context import Ctx, Segment, segment
from dogwatch.web.encoding import encode_json
from dogwatch.web.permissions import PUBLIC
from dogwatch.webhooks.delivery import Answer
from dogwatch.webhooks.request import RawRequest
from dogwatch.webhooks.view import Admission, HookRefusal, HooksView

_MAX_FIELDS = 200


@post("/hooks/{name:str}", opt=PUBLIC, status_code=202, include_in_schema=False)
async def receive_hook(ctx: Ctx, request: Request[Any, Any, Any], name: Segment) -> Response[bytes]:
    hooks = ctx.services.hooks
    whole = False
    try:
        if hooks is None:
            raise HookRefusal(404, "there is nothing at this address")
        name, remote = segment(name), request.client.host if request.client else ""
        admission = hooks.admit(name, remote=remote, length=_length(request))
        try:
            body = await _body(request, admission)
            whole = True
            answer = await _deliver(hooks, name, request, body, remote)
        finally:
            admission.release()
    except HookRefusal as refusal:
        return _refused(refusal, whole=whole)
    told = {"id": answer.id, "state": answer.state, "run": answer.run}
    return Response(msgspec.json.encode(told), status_code=answer.status, media_type="application/json")


async def _deliver(hooks: HooksView, name: str, request: Request[Any, Any, Any], body: bytes, remote: str) -> Answer:
    headers: dict[str, str] = {}
    repeated = set()
    for raw_name, value in request.scope["headers"]:
        key = raw_name.decode("latin-1").lower()
        if key in headers:
            repeated.add(key)
        else:
            headers[key] = value.decode("latin-1")
    raw = RawRequest(
        headers=headers,
        repeated=frozenset(repeated),
        query=_query(request.scope["query_string"]),
        body=body,
        remote=remote,
    )
    return await hooks.deliver(name, raw)


def _query(text: bytes) -> dict[str, str]:
    """Return the query; of a name that is there twice the first, and nothing of one with too many fields."""
    try:
        pairs = parse_qsl(text.decode("latin-1"), keep_blank_values=True, max_num_fields=_MAX_FIELDS)
    except ValueError:
        return {}
    found: dict[str, str] = {}
    for key, value in pairs:
        found.setdefault(key, value)
    return found


def _length(request: Request[Any, Any, Any]) -> int | None:
    text = request.headers.get("content-length", "")
    return int(text) if text.isascii() and text.isdigit() and len(text) < 19 else None


async def _body(request: Request[Any, Any, Any], admission: Admission) -> bytes:
    """Return the body. Nothing beyond what was admitted is ever kept: over it, reading ends at once."""
    chunks = []
    async for chunk in request.stream():
        admission.hold(len(chunk))
        chunks.append(chunk)
    return chunks[0] if len(chunks) == 1 else b"".join(chunks)


def _refused(refusal: HookRefusal, *, whole: bool) -> Response[bytes]:
    problem = problems.problem(refusal.status, str(refusal))
    headers = {} if whole else {"Connection": "close"}  # the rest of the body is not read
    if refusal.retry_after_s is not None:
        headers["Retry-After"] = str(max(1, round(refusal.retry_after_s + 0.5)))
    return Response(encode_json(problem), status_code=refusal.status, media_type=problems.MEDIA_TYPE, headers=headers)


HOOK_HANDLERS = (receive_hook,)
