"""Contexts: the daemons that one talks to, with the token and certificate authority for each, as kubectl has them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import msgspec

from dogwatch.errors import Conflict, DogwatchError, NotFound


class Context(msgspec.Struct, frozen=True, kw_only=True):
    """One daemon. token: "" for none. ca: file of who vouches for its certificate, "" for the machine's own. cert, key:
    files with one's own certificate, "" for none.
    """

    server: str
    token: str = ""
    ca: str = ""
    cert: str = ""
    key: str = ""


class Contexts(msgspec.Struct, frozen=True, kw_only=True):
    """What the file holds. current: the name of the one in use, "" for none."""

    current: str = ""
    contexts: dict[str, Context] = {}

    def get(self, name: str) -> Context:
        """Raises: NotFound."""
        if name not in self.contexts:
            known = ", ".join(self.contexts) or "none yet"
            raise NotFound(f"there is no context '{name}'", hint=f"known: {known}; make one with 'dogwatch login'")
        return self.contexts[name]

    def by_server(self, server: str) -> Context | None:
        return next((one for one in self.contexts.values() if one.server.rstrip("/") == server.rstrip("/")), None)


def contexts_file(environ: Mapping[str, str]) -> Path:
    if environ.get("DOGWATCH_CONTEXTS"):
        return Path(environ["DOGWATCH_CONTEXTS"])
    base = environ.get("XDG_CONFIG_HOME") or str(Path(environ.get("HOME", "/")) / ".config")
    return Path(base) / "dogwatch" / "contexts.json"


def load_contexts(environ: Mapping[str, str]) -> Contexts:
    """Raises: DogwatchError for a file that is none of ours."""
    path = contexts_file(environ)
    try:
        return msgspec.json.decode(path.read_bytes(), type=Contexts)
    except FileNotFoundError:
        return Contexts()
    except OSError as error:
        raise DogwatchError(f"cannot read {path}: {(error.strerror or str(error)).lower()}") from error
    except msgspec.MsgspecError as error:
        raise DogwatchError(f"{path} is not a file of contexts: {error}", hint="move it away") from error


def save_contexts(environ: Mapping[str, str], contexts: Contexts) -> Path:
    """Write the file, readable to its owner only: it holds tokens."""
    path = contexts_file(environ)
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        fresh = path.with_name(f".{path.name}.{os.getpid()}")
        descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(msgspec.json.format(msgspec.json.encode(contexts), indent=2) + b"\n")
        fresh.replace(path)
    except OSError as error:
        raise DogwatchError(f"cannot write {path}: {(error.strerror or str(error)).lower()}") from error
    return path


def with_context(contexts: Contexts, name: str, context: Context) -> Contexts:
    return Contexts(current=name, contexts={**contexts.contexts, name: context})


def without_context(contexts: Contexts, name: str) -> Contexts:
    """Raises: NotFound."""
    contexts.get(name)
    left = {key: one for key, one in contexts.contexts.items() if key != name}
    return Contexts(current="" if contexts.current == name else contexts.current, contexts=left)


def renamed_context(contexts: Contexts, name: str, new: str) -> Contexts:
    """Raises: NotFound, Conflict for a name that another has."""
    contexts.get(name)
    if new in contexts.contexts and new != name:
        raise Conflict(f"there is a context '{new}' already", hint=f"forget it first: dogwatch context remove {new}")
    kept = {new if key == name else key: one for key, one in contexts.contexts.items()}
    return Contexts(current=new if contexts.current == name else contexts.current, contexts=kept)
