"""Values of secret parameters are stored sealed; who holds the key is not the engine's business."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import msgspec

from dogwatch.engine.parameters import shown_parameters
from dogwatch.engine.spec import JobSpec
from dogwatch.engine.values import Json
from dogwatch.errors import PermanentError


class Sealer(Protocol):
    """Encrypts and authenticates small values; access implements it with a key of its own."""

    def seal(self, data: bytes) -> bytes:
        """Return what may be stored. Two seals of the same data differ."""
        ...

    def open(self, sealed: bytes) -> bytes:
        """Return what was sealed.

        Raises: PermanentError where it was changed, or sealed with a key that is not here.
        """
        ...


class Stored(msgspec.Struct, frozen=True, kw_only=True):
    """The parameters of a run as they are stored.

    shown: secret ones masked. sealed: those, b"" where there are none.
    """

    shown: Mapping[str, Json]
    sealed: bytes = b""


def seal_parameters(job: JobSpec, parameters: Mapping[str, Json], sealer: Sealer) -> Stored:
    """Return what to store of checked parameters."""
    secret = {
        name: parameters[name]
        for name, parameter in job.parameters.items()
        if parameter.secret and parameters.get(name) is not None
    }
    sealed = sealer.seal(msgspec.json.encode(secret)) if secret else b""
    return Stored(shown=shown_parameters(job, parameters), sealed=sealed)


def open_parameters(stored: Stored, sealer: Sealer) -> dict[str, Json]:
    """Return the real values of a run's parameters.

    Raises: PermanentError.
    """
    if not stored.sealed:
        return dict(stored.shown)
    try:
        secret = msgspec.json.decode(sealer.open(stored.sealed), type=dict[str, Json])
    except msgspec.DecodeError as error:
        raise PermanentError(f"the sealed parameters cannot be read: {error}") from None
    return {**stored.shown, **secret}
