"""What modules keep elsewhere: files read for each probe, and certificates written in the module itself."""

from __future__ import annotations

import os
import threading
import weakref
from pathlib import Path

import msgspec

from dogwatch.errors import ConfigError, Problem
from dogwatch.probes.blackbox_format import AuthorizationConfig, BasicAuthConfig, ClientConfig, HeaderValues

_MAX_FILE_BYTES = 16 * 1024 * 1024


class MemoryFile:
    """A text that a library wants as a file, in memory only; gone when nobody holds it any more."""

    def __init__(self, text: str) -> None:
        descriptor = os.memfd_create("dogwatch", os.MFD_CLOEXEC)
        self._close = weakref.finalize(self, os.close, descriptor)
        with os.fdopen(os.dup(descriptor), "wb") as out:
            out.write(text.encode("utf-8", "surrogateescape"))
        self.path = f"/proc/self/fd/{descriptor}"


class MemoryFiles:
    """Hands out one file for equal texts, however many targets need it."""

    def __init__(self) -> None:
        self._files: weakref.WeakValueDictionary[str, MemoryFile] = weakref.WeakValueDictionary()
        self._lock = threading.Lock()

    def file(self, text: str) -> MemoryFile:
        with self._lock:
            found = self._files.get(text)
            if found is None:
                found = self._files[text] = MemoryFile(text)
            return found


def read_bytes(path: str) -> bytes:
    """Return a file's content.

    Raises: ConfigError.
    """
    try:
        with Path(path).open("rb") as file:
            data = file.read(_MAX_FILE_BYTES + 1)
    except OSError as error:
        raise ConfigError([Problem(f"cannot read: {error.strerror or error}", file=path)]) from None
    if len(data) > _MAX_FILE_BYTES:
        raise ConfigError([Problem(f"has more than {_MAX_FILE_BYTES} bytes", file=path)])
    return data


def read_secret(path: str) -> str:
    """Return a file's text without the white space around it.

    Raises: ConfigError.
    """
    try:
        return read_bytes(path).decode().strip()
    except UnicodeDecodeError:
        raise ConfigError([Problem("is not UTF-8", file=path)]) from None


def either(text: str, path: str, reference: str = "") -> str:
    """Return a secret that is given itself, as a file, or as a reference.

    Raises: ConfigError; always for a reference, as in blackbox_exporter, which has no secret manager either.
    """
    if reference:
        raise ConfigError([Problem(f"cannot look up '{reference}': there is no secret manager", hint="use a file")])
    return read_secret(path) if path else text


def basic_of(basic: BasicAuthConfig) -> tuple[str, str]:
    """Return user and password.

    Raises: ConfigError.
    """
    return (
        either(basic.username, basic.username_file, basic.username_ref),
        either(basic.password, basic.password_file, basic.password_ref),
    )


def authorization_of(client: ClientConfig) -> str:
    """Return the Authorization header of a client that has neither basic_auth nor oauth2, "" for none.

    Raises: ConfigError.
    """
    given = client.authorization or AuthorizationConfig(
        credentials=client.bearer_token, credentials_file=client.bearer_token_file
    )
    credentials = either(given.credentials, given.credentials_file, given.credentials_ref)
    return f"{given.type.strip() or 'Bearer'} {credentials}" if credentials or client.authorization else ""


def header_of(values: HeaderValues) -> str:
    """Return a header's values as one, as HTTP lets them be joined.

    Raises: ConfigError.
    """
    return ", ".join([*values.values, *values.secrets, *(read_secret(path) for path in values.files)])


def names_files(value: object) -> bool:
    """Return whether a module names files that are read for each probe."""
    if isinstance(value, msgspec.Struct):
        for field in msgspec.structs.fields(value):
            inner = getattr(value, field.name)
            if (field.name == "files" or field.name.endswith("_file")) and inner:
                # Certificates are read again by those who use them, whenever they change.
                if field.name not in ("ca_file", "cert_file", "key_file"):
                    return True
            elif names_files(inner):
                return True
        return False
    inside = value.values() if isinstance(value, dict) else value if isinstance(value, tuple) else ()
    return any(names_files(inner) for inner in inside)
