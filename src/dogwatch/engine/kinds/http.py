"""One HTTP request to another system's API."""

from __future__ import annotations

import base64
import email.utils
import re
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, ClassVar, Literal
from urllib.parse import urlencode, urlsplit

import msgspec
from msgspec import Meta

from dogwatch.core.units import Bytes, Expression, Seconds, Secret, format_size
from dogwatch.engine.action import Action, Change, Outcome, Scene, Wait
from dogwatch.engine.http_types import HttpRequest, HttpResponse
from dogwatch.engine.values import Json
from dogwatch.errors import PermanentError, TransientError
from dogwatch.expressions.conditions import ConditionError, ConditionFailure, compile_condition

Method = Literal["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]
# May be better next time; all other refusals are meant.
_TRANSIENT = frozenset({408, 425, 429})
_SAFE = frozenset({"GET", "HEAD", "OPTIONS"})
_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_CHARSET = re.compile(r"charset=\"?([\w.:-]+)", re.IGNORECASE)
# Whoever asks for more has forgotten us.
LONGEST_RETRY_AFTER_S = 86400.0
_EXCERPT_CHARS = 2000


class HttpAction(Action, frozen=True, kw_only=True):
    """Makes one HTTP request. Network trouble and 408, 425, 429 and 5xx are worth a retry, other refusals are not.

    url: http or https. method: GET, or POST where there is a body. query: added to the URL, encoded. headers: names
    and values. body: text to send. json: a value to send as JSON; a whole template keeps its type. form: fields to
    send as a form. username and password: for basic authentication.
    expect: what must be true of `status`, `headers`, `body`, `json`, `duration_s`; by default a status of 200 to 299.
    timeout: for the whole request, redirects included. redirects: how many are followed. verify: whether the
    certificate must be trusted. ca_file: trusted certificates, instead of the machine's own. cert_file and key_file:
    our own certificate. proxy: the address of a proxy. body_limit: how much of the answer is read and kept.
    idempotency_key: whether requests that change something carry the header `Idempotency-Key`, the same for each
    attempt, so that a server that knows it does the work once.
    """

    kind: ClassVar[str] = "http"
    short: ClassVar[str] = "url"
    outputs: ClassVar[Mapping[str, str]] = {
        "status": "int",
        "headers": "map",
        "body": "string",
        "json": "dyn",
        "url": "string",
        "duration_s": "double",
        "truncated": "bool",
    }
    variables: ClassVar[Mapping[str, str]] = {
        "status": "int",
        "headers": "map",
        "body": "string",
        "json": "dyn",
        "duration_s": "double",
    }

    url: str
    method: Method | None = None
    query: Mapping[str, str] = {}
    headers: Mapping[str, str] = {}
    body: str | None = None
    json: Json = None
    form: Mapping[str, str] | None = None
    username: str = ""
    password: Secret = ""
    expect: Expression | None = None
    timeout: Seconds = 30.0
    redirects: Annotated[int, Meta(ge=0, le=20)] = 5
    verify: bool = True
    ca_file: str = ""
    cert_file: str = ""
    key_file: str = ""
    proxy: str = ""
    body_limit: Bytes = 64 * 1024
    idempotency_key: bool = True

    def faults(self) -> Iterable[tuple[tuple[str | int, ...], str, str]]:
        if "{{" not in self.url and (mistake := _url_mistake(self.url)):
            yield ("url",), mistake, "write it as https://host/path"
        bodies = [name for name in ("body", "json", "form") if getattr(self, name) is not None]
        for name in bodies[1:]:
            yield (name,), f"there is a '{bodies[0]}' already", "a request has one body"
        for name in self.headers:
            if not _NAME.fullmatch(name):
                yield ("headers", name), f"'{name[:60]}' is no header's name", ""
        if self.key_file and not self.cert_file:
            yield ("key_file",), "means nothing without 'cert_file'", ""
        if self.timeout <= 0:
            yield ("timeout",), "must be more than nothing", ""
        if self.expect is not None:
            try:
                compile_condition(self.expect, self.variables)
            except ConditionError as error:
                yield ("expect",), str(error), error.hint

    @property
    def verb(self) -> str:
        has_body = self.body is not None or self.json is not None or self.form is not None
        return self.method or ("POST" if has_body else "GET")

    def plan(self) -> Change:
        details = [f"{name}: {value}" for name, value in self.headers.items()]
        body = self._body()
        if body:
            details += ["", *body[0].decode(errors="replace")[:_EXCERPT_CHARS].splitlines()[:40]]
        return Change(summary=f"{self.verb} {self._url()}", details=tuple(details), destructive=self.verb == "DELETE")

    async def apply(self, scene: Scene) -> Outcome | Wait:
        # Imported here: it brings libcurl.
        from dogwatch.engine.http_client import HttpClient

        if mistake := _url_mistake(self._url()):
            raise PermanentError(mistake)
        answer = await scene.get(HttpClient).request(self._request(scene))
        values = self._values(answer)
        scene.write(f"{self.verb} {self._url()}: {answer.status} in {answer.duration_s:.3f} s\n", "note")
        why = self._refusal(values, answer)
        if why:
            scene.write(str(values["body"])[:_EXCERPT_CHARS])
            raise _error(f"{self.verb} {_bare(self._url())}: {why}", answer, scene.now_s)
        outputs = {**values, "url": answer.url, "truncated": answer.truncated}
        return Outcome(outputs=outputs, changed=self.verb not in _SAFE, message=f"status {answer.status}")

    def _request(self, scene: Scene) -> HttpRequest:
        headers = dict(self.headers)
        given = {name.lower() for name in headers}
        body = self._body()
        if body and "content-type" not in given:
            headers["Content-Type"] = body[1]
        if self.username and "authorization" not in given:
            pair = f"{self.username}:{self.password}".encode()
            headers["Authorization"] = f"Basic {base64.b64encode(pair).decode()}"
        if self.idempotency_key and self.verb not in _SAFE and "idempotency-key" not in given:
            headers["Idempotency-Key"] = scene.idempotency_key
        return HttpRequest(
            url=self._url(),
            method=self.verb,
            headers=tuple(headers.items()),
            body=body[0] if body else None,
            timeout_s=max(0.001, min(self.timeout, scene.remaining_s())),
            redirects=self.redirects,
            body_limit=self.body_limit,
            verify=self.verify,
            ca_file=self.ca_file,
            cert_file=self.cert_file,
            key_file=self.key_file,
            proxy=self.proxy,
        )

    def _url(self) -> str:
        if not self.query:
            return self.url
        url, hash_, fragment = self.url.partition("#")
        return f"{url}{'&' if '?' in url else '?'}{urlencode(self.query)}{hash_}{fragment}"

    def _body(self) -> tuple[bytes, str] | None:
        """Return the body with its content type."""
        if self.body is not None:
            return self.body.encode(), "text/plain; charset=utf-8"
        if self.form is not None:
            return urlencode(self.form).encode(), "application/x-www-form-urlencoded"
        if self.json is not None:
            return msgspec.json.encode(self.json), "application/json"
        return None

    def _values(self, answer: HttpResponse) -> dict[str, Any]:
        text = _text(answer)
        return {
            "status": answer.status,
            "headers": dict(answer.headers),
            "body": text,
            "json": None if answer.truncated else _json(answer.body),
            "duration_s": answer.duration_s,
        }

    def _refusal(self, values: Mapping[str, Any], answer: HttpResponse) -> str:
        """Return why the answer is not what was wanted, "" where it is."""
        if self.expect is None:
            return "" if 200 <= answer.status < 300 else f"status {answer.status}"
        condition = compile_condition(self.expect, self.variables)
        try:
            why = "" if condition.test(values) else f"status {answer.status}, and {condition.explain(values)}"
        except ConditionFailure as failure:
            why = f"status {answer.status}, and {failure}"
        cut = f" (the body was cut at {format_size(self.body_limit)})" if why and answer.truncated else ""
        return why + cut


def _error(message: str, answer: HttpResponse, now_s: float) -> TransientError | PermanentError:
    if answer.status in _TRANSIENT or answer.status >= 500:
        return TransientError(message, retry_after_s=retry_after_s(answer.headers.get("retry-after", ""), now_s))
    return PermanentError(message)


def retry_after_s(value: str, now_s: float) -> float | None:
    """Return the wait that a Retry-After header asks for, in seconds or as a date; None where it says nothing."""
    value = value.strip()
    if value.isascii() and value.isdigit() and len(value) < 10:
        wait_s = float(value)
    else:
        try:
            wait_s = email.utils.parsedate_to_datetime(value).timestamp() - now_s
        except (ValueError, TypeError, OverflowError):
            return None
    return min(max(0.0, wait_s), LONGEST_RETRY_AFTER_S)


def _url_mistake(url: str) -> str:
    try:
        parts = urlsplit(url)
        valid = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        valid = False
    if not valid or any(char.isspace() or ord(char) < 32 for char in url):
        return f"'{_bare(url)[:80]}' is not an http or https address"
    return ""


def _bare(url: str) -> str:
    """Return an address without what may be secret in it: user, query."""
    rest = url.partition("?")[0].partition("#")[0]
    scheme, slashes, place = rest.partition("//")
    host, slash, path = place.partition("/")
    return f"{scheme}{slashes}{host.rpartition('@')[2]}{slash}{path}"


def _text(answer: HttpResponse) -> str:
    named = _CHARSET.search(answer.headers.get("content-type", ""))
    try:
        return answer.body.decode(named[1] if named else "utf-8", "replace").replace("\0", "�")
    except LookupError:
        return answer.body.decode("utf-8", "replace").replace("\0", "�")


def _json(body: bytes) -> Json:
    """Return what the body says as JSON, None where it is none."""
    if not body.lstrip()[:1] or body.lstrip()[:1] not in b'{["-0123456789tfn':
        return None
    try:
        return msgspec.json.decode(body)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        return None
