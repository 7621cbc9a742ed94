"""Talks to a daemon: its HTTP API, and its admin socket on this machine."""

from __future__ import annotations

import functools
import http.client
import os
import socket
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar
from urllib.parse import quote, urlencode, urlsplit

import click
import msgspec

from dogwatch.cli.contexts import load_contexts
from dogwatch.daemon.paths import admin_socket, default_data_dir
from dogwatch.errors import Conflict, DogwatchError, NotAllowed, NotFound, Unreachable, UsageError

DEFAULT_SERVER = "http://127.0.0.1:8410"
_BY_CODE: dict[str, type[DogwatchError]] = {
    **{error.code: error for error in (NotFound, Conflict, NotAllowed, Unreachable, UsageError)},
    # What is wrong with a configuration that was sent.
    "config": UsageError,
}
F = TypeVar("F", bound=Callable[..., Any])


class Client:
    """One daemon's HTTP API. timeout_s bounds every call.

    token: shown with every call. ca: file of who vouches for its certificate. cert, key: files with our own, for a
    daemon that asks for one. A daemon on this machine that wants to know who asks is shown a token that its admin
    socket gives to whoever may open that.
    """

    def __init__(
        self, server: str, *, timeout_s: float = 30.0, token: str = "", ca: str = "", cert: str = "", key: str = ""
    ) -> None:
        try:
            parts = urlsplit(server if "//" in server else f"http://{server}")
            usable = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0 and parts.path.isascii()
        except ValueError:  # brackets that do not close, a port that is no number
            usable = False
        if not usable:
            raise UsageError(f"'{server}' is not a server address", hint=f"write it as {DEFAULT_SERVER}")
        self.server = f"{parts.scheme}://{parts.netloc}"
        self._parts = parts
        self.timeout_s = timeout_s
        self._token = token
        self._ca, self._cert, self._key = ca, cert, key

    def get(self, path: str, **query: object) -> Any:
        """Return the decoded answer of a read. A value that is a sequence is given several times, None is left out."""
        pairs = urlencode({key: value for key, value in query.items() if value is not None}, doseq=True)
        return self._call("GET", f"{path}?{pairs}" if pairs else path)

    def each(self, path: str, *, most: int = 0, page: int = 500, **query: object) -> Iterator[Any]:
        """Yield the items of a list, asking for as many pages as are used. most: so many of them, 0 for all."""
        cursor, given = None, 0
        while True:
            found = self.get(path, limit=min(page, most - given) if most else page, cursor=cursor, **query)
            yield from found["items"]
            given += len(found["items"])
            cursor = found["next_cursor"]
            if not cursor or (most and given >= most):
                return

    def all(self, path: str, **query: Any) -> list[Any]:
        """Return every item of a list."""
        return list(self.each(path, **query))

    def post(self, path: str, body: Mapping[str, object] | None = None, *, key: str = "") -> Any:
        """Return the decoded answer of a change. key: with the same one, the same change is made only once."""
        return self._call("POST", path, msgspec.json.encode(body or {}), {"Idempotency-Key": key} if key else {})

    def delete(self, path: str) -> Any:
        """Return the decoded answer of a removal."""
        return self._call("DELETE", path)

    def lines(self, path: str, **query: object) -> Iterator[bytes]:
        """Yield the lines of an answer, as they come.

        Raises: Unreachable where it breaks.
        """
        pairs = urlencode({key: value for key, value in query.items() if value is not None}, doseq=True)
        whole = f"{path}?{pairs}" if pairs else path
        connection = self._connection()
        try:
            response = self._asked(connection, "GET", whole)
            if response.status == 401 and self._ask_for_token():
                connection.close()
                response = self._asked(connection, "GET", whole)
            if response.status >= 400:
                self._decode(response.status, response.reason, response.read())
            yield from response
        except (OSError, http.client.HTTPException) as error:
            raise self._unreachable(error) from None
        finally:
            connection.close()

    def stream(self, path: str, **query: object) -> Iterator[tuple[str, Any]]:
        """Yield the events of a live stream, each with its data, until the daemon ends it.

        Raises: Unreachable where it breaks.
        """
        name = ""
        for line in self.lines(path, **query):
            text = line.decode("utf-8", "replace").rstrip("\r\n")
            if text.startswith("event: "):
                name = text[7:]
            elif text.startswith("data: "):
                yield name, msgspec.json.decode(text[6:])

    def _connection(self) -> http.client.HTTPConnection:
        parts = self._parts
        if parts.scheme != "https":
            return http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=self.timeout_s)
        import ssl

        what = self._ca
        try:
            context = ssl.create_default_context(cafile=self._ca or None)
            if self._cert:
                what = self._key or self._cert
                context.load_cert_chain(self._cert, self._key or None)
        except ssl.SSLError as error:
            raise UsageError(
                f"cannot use {what}: {error.reason or error}", hint="are key and certificate a pair?"
            ) from None
        except OSError as error:
            raise UsageError(f"cannot use {what}: {(error.strerror or str(error)).lower()}") from None
        return http.client.HTTPSConnection(parts.hostname or "", parts.port, timeout=self.timeout_s, context=context)

    def _ask_for_token(self) -> bool:
        """Get a token over the admin socket, where the daemon is one of this machine and none was given."""
        if self._token or not is_loopback(self._parts.hostname or ""):
            return False
        try:
            self._token = str(ask_admin("local_token", timeout_s=5.0)["token"])
        except DogwatchError:
            return False
        return True

    def _call(self, method: str, path: str, body: bytes | None = None, headers: Mapping[str, str] | None = None) -> Any:
        connection = self._connection()
        try:
            response = self._asked(connection, method, path, body, headers)
            content = response.read()
            if response.status == 401 and self._ask_for_token():
                connection.close()
                response = self._asked(connection, method, path, body, headers)
                content = response.read()
        except (OSError, http.client.HTTPException) as error:
            raise self._unreachable(error) from None
        finally:
            connection.close()
        return self._decode(response.status, response.reason, content)

    def _unreachable(self, error: Exception) -> Unreachable:
        hint = "start it with 'dogwatch up', or name another with --server"
        # The ssl module is loaded only where it is used.
        if type(error).__name__ == "SSLCertVerificationError":
            why = getattr(error, "verify_message", "") or _why(error)
            vouching = f" by {self._ca}" if self._ca else ""
            text = f"the certificate of {self.server} is not vouched for{vouching}: {why}"
            return Unreachable(text, hint="say who vouches for it: --ca FILE of 'dogwatch context add' and 'login'")
        if isinstance(error, http.client.BadStatusLine | http.client.RemoteDisconnected):
            hint = "does it speak TLS? Write the address with https://" if self._parts.scheme == "http" else hint
        return Unreachable(f"cannot reach the daemon at {self.server}: {_why(error)}", hint=hint)

    def _asked(
        self,
        connection: http.client.HTTPConnection,
        method: str,
        path: str,
        body: bytes | None = None,
        more: Mapping[str, str] | None = None,
    ) -> http.client.HTTPResponse:
        if "" in path.partition("?")[0].split("/")[1:]:
            # An empty name would make it the address of something else: `run cancel "$RUN"` without RUN, for instance.
            raise UsageError("a name or an id on the command line is empty")
        headers = {"Accept": "application/json", "User-Agent": "dogwatch", **(more or {})}
        if self._token:
            headers["Authorization"] = f"Bearer {self._token}"
        if body is not None:
            headers["Content-Type"] = "application/json"
        try:
            connection.request(method, self._parts.path.rstrip("/") + path, body=body, headers=headers)
            return connection.getresponse()
        except (OSError, http.client.HTTPException, UnicodeError) as error:
            raise self._unreachable(error) from None

    def _decode(self, status: int, reason: str, content: bytes) -> Any:
        try:
            decoded = msgspec.json.decode(content) if content else None
        except msgspec.DecodeError:
            raise Unreachable(
                f"{self.server} answered {status} with something that is not JSON", hint="is this a Dogwatch daemon?"
            ) from None
        if status < 400:
            return decoded
        problem = decoded if isinstance(decoded, dict) else {}
        message = problem.get("detail") or problem.get("title") or f"{status} {reason}"
        raise _BY_CODE.get(str(problem.get("code")), DogwatchError)(str(message), hint=str(problem.get("hint") or ""))


def is_loopback(host: str) -> bool:
    return host in ("localhost", "::1") or host.startswith("127.")


def _why(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, OSError) and error.errno:
        return os.strerror(error.errno).lower()
    return str(error) or type(error).__name__


def ask_admin(operation: str, *, path: str | None = None, timeout_s: float = 30.0, **arguments: object) -> Any:
    """Ask the daemon on this machine over its admin socket and return the decoded answer.

    Raises: Unreachable when nobody listens there, NotAllowed when the socket is somebody else's.
    """
    where = path or os.environ.get("DOGWATCH_SOCKET") or str(admin_socket(default_data_dir(os.environ)))
    request = msgspec.json.encode({"operation": operation, "arguments": arguments}) + b"\n"
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(timeout_s)
            connection.connect(where)
            connection.sendall(request)
            with connection.makefile("rb") as stream:
                line = stream.readline()
    except PermissionError:
        raise NotAllowed(
            f"may not talk to the admin socket {where}", hint="run this as the user the daemon runs as"
        ) from None
    except (OSError, ValueError) as error:
        raise Unreachable(
            f"cannot reach a daemon at {where}: {_why(error)}",
            hint="start it with 'dogwatch up', or name its socket with --socket",
        ) from None
    if not line:
        raise Unreachable(f"the daemon at {where} closed the connection")
    answer = msgspec.json.decode(line)
    if "error" in answer:
        problem = answer["error"]
        raise _BY_CODE.get(problem["code"], DogwatchError)(problem["message"], hint=problem.get("hint", ""))
    return answer["result"]


def target_path(name: str) -> str:
    """Return the API path of a target; names may hold anything, slashes too."""
    return f"/api/v1/targets/{quote(os.fsencode(name), safe='')}"


def client_of(server: str | None, context: str | None) -> Client:
    """Return the client of a server, a context, the context in use, or this machine's daemon.

    The token is DOGWATCH_TOKEN, else the context's; a context's token goes to its own server only. The certificate is
    that of DOGWATCH_CERT and DOGWATCH_KEY, else the context's.

    Raises: NotFound for a context that there is not.
    """
    contexts = load_contexts(os.environ)
    token = os.environ.get("DOGWATCH_TOKEN", "")
    if server:
        known = contexts.by_server(server)
    elif context or contexts.current:
        known = contexts.get(context or contexts.current)
    else:
        known = None
    cert, key = os.environ.get("DOGWATCH_CERT", ""), os.environ.get("DOGWATCH_KEY", "")
    if known is None:
        return Client(server or DEFAULT_SERVER, token=token, cert=cert, key=key)
    if not cert:
        cert, key = known.cert, known.key
    return Client(known.server, token=token or known.token, ca=known.ca, cert=cert, key=key)


def chosen(server: str | None, context: str | None) -> tuple[str | None, str | None]:
    """Return the server or the context that is meant: what flags say wins over what the environment says.

    Raises: UsageError where both are said at once.
    """
    from click.core import ParameterSource

    asked = click.get_current_context()
    flags = [asked.get_parameter_source(name) is ParameterSource.COMMANDLINE for name in ("server", "context")]
    if all(flags):
        raise UsageError("--server and --context are both given", hint="a context has its server: say one of them")
    if flags[1]:
        return None, context
    return server, None if server else context


def server_option(function: F) -> F:
    """Add `--server` and `--context`, and pass a Client as `client`."""

    @click.option(
        "--server",
        envvar="DOGWATCH_SERVER",
        metavar="URL",
        help=f"The daemon to talk to: this, else the context's, else {DEFAULT_SERVER}.",
    )
    @click.option("--context", envvar="DOGWATCH_CONTEXT", metavar="NAME", help="The context to use, once.")
    @functools.wraps(function)
    def wrapped(*args: Any, server: str | None, context: str | None, **kwargs: Any) -> Any:
        return function(*args, client=client_of(*chosen(server, context)), **kwargs)

    return wrapped  # type: ignore[return-value]


def json_option(function: F) -> F:
    """Add `--json`, passed as `as_json`."""
    return click.option("--json", "as_json", is_flag=True, help="Print data as JSON.")(function)
