"""Errors as RFC 9457 problem documents, with `code` and `hint` in the vocabulary of errors.py."""

from __future__ import annotations

from http import HTTPStatus

import msgspec

from dogwatch.errors import ConfigError, DogwatchError, TransientError
from dogwatch.words import SOURCE, Words

MEDIA_TYPE = "application/problem+json"

# Code of errors.py → HTTP status. A code that is not here is a failure of ours: 500.
STATUSES = {
    "usage": 400,
    "config": 422,
    "query": 400,
    "query_limit": 503,
    "not_found": 404,
    "conflict": 409,
    "store_locked": 503,
    "store_newer": 503,
    "not_allowed": 403,
    "unreachable": 503,
    "transient": 503,
    "permanent": 502,
}
# HTTP status → code, for what the HTTP layer itself refuses.
CODES = {
    400: "usage",
    401: "not_allowed",
    403: "not_allowed",
    404: "not_found",
    405: "method_not_allowed",
    412: "conflict",
    422: "usage",
    408: "timeout",
    413: "too_large",
    414: "too_large",
    415: "usage",
    421: "misdirected",
    429: "too_many",
    431: "too_large",
    503: "unreachable",
}


class Problem(msgspec.Struct, frozen=True, kw_only=True, rename={"kind": "type"}):
    """What went wrong. code: a word of a closed list. hint: what to do next, or empty. problems: one line each."""

    title: str
    status: int
    code: str
    detail: str
    hint: str = ""
    problems: tuple[str, ...] = ()
    kind: str = "about:blank"


def title(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "Error"


def problem(status: int, detail: str, *, code: str = "", hint: str = "") -> Problem:
    return Problem(
        title=title(status),
        status=status,
        code=code or CODES.get(status, "usage" if status < 500 else "internal"),
        detail=detail,
        hint=hint,
    )


def from_error(error: DogwatchError) -> Problem:
    status = STATUSES.get(error.code, 500)
    return Problem(
        title=title(status),
        status=status,
        code=error.code,
        detail=str(error),
        hint=error.hint,
        problems=tuple(map(str, error.problems)) if isinstance(error, ConfigError) else (),
    )


def in_words(problem: Problem, spoken: Words) -> Problem:
    """Return a problem in the caller's language. Its code stays: programs go by that."""
    if spoken.language == SOURCE:
        return problem
    title, detail, hint = (spoken.tell(text) for text in (problem.title, problem.detail, problem.hint))
    return msgspec.structs.replace(problem, title=title, detail=detail, hint=hint)


def retry_after(error: Exception) -> dict[str, str]:
    """Return the header that says when to try again, if the error knows."""
    if isinstance(error, TransientError) and error.retry_after_s is not None:
        return {"Retry-After": str(max(1, round(error.retry_after_s)))}
    return {}


class WebRefusal(DogwatchError):
    """A refusal that only exists over HTTP; status: what is answered."""

    def __init__(self, status: int, message: str, *, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.status = status


def used_otherwise() -> WebRefusal:
    """Return what an idempotency key is refused with that stands for something else."""
    return WebRefusal(422, "this Idempotency-Key was used for something else", hint="use a new key for each change")
