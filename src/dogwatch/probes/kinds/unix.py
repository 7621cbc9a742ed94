"""The `unix` kind."""

from __future__ import annotations

import ssl
from typing import Annotated, ClassVar

from msgspec import Meta

from dogwatch.probes.dialogue import (
    DIALOGUE_MEANINGS,
    DIALOGUE_METRICS,
    DIALOGUE_VARIABLES,
    DialogueStep,
    LineEnd,
    converse,
    dialogue_faults,
)
from dogwatch.probes.probe import Attempt
from dogwatch.probes.progress import Progress, SteppedProbe
from dogwatch.probes.stream import TLS_MEANINGS, TLS_METRICS, TLS_VARIABLES, Stream, open_unix_stream
from dogwatch.probes.trust import TlsOptions, tls_failure, tls_option_faults, tls_options

_MAX_PATH_BYTES = 107


class UnixProbe(SteppedProbe, frozen=True, kw_only=True):
    """Connects to a unix socket, and says and hears what the dialogue asks for.

    path: of the socket. tls: true or options: TLS from the first byte, or at the step with `starttls`; a server_name
    is needed to verify; default off. dialogue: steps of what to expect and to send; default none. line_end: sent after
    each text: lf, crlf or none; default lf.
    """

    kind: ClassVar[str] = "unix"
    short: ClassVar[str] = "path"
    variables: ClassVar[dict[str, str]] = {**TLS_VARIABLES, **DIALOGUE_VARIABLES}
    meanings: ClassVar[dict[str, str]] = {**TLS_MEANINGS, **DIALOGUE_MEANINGS}
    metrics: ClassVar[dict[str, tuple[str, str]]] = {**TLS_METRICS, **DIALOGUE_METRICS}

    path: str
    tls: TlsOptions | bool = False
    dialogue: Annotated[tuple[DialogueStep, ...], Meta(max_length=100)] = ()
    line_end: LineEnd = "lf"

    def address(self) -> str:
        return self.path

    def faults(self) -> list[tuple[tuple[str | int, ...], str, str]]:
        found = tls_option_faults(self.tls) + dialogue_faults(self.dialogue)
        if not self.path or "\0" in self.path or len(self.path.encode()) > _MAX_PATH_BYTES:
            found.append((("path",), "is not the path of a socket", f"1 to {_MAX_PATH_BYTES} bytes"))
        return found

    async def ask(self, attempt: Attempt, progress: Progress) -> None:
        progress.values["tls"] = False
        with await open_unix_stream(self.path, progress) as stream:
            if self.tls and not any(step.starttls for step in self.dialogue):
                await self._start_tls(attempt, stream)
            if self.dialogue:
                await converse(stream, self.dialogue, self.line_end, lambda: self._start_tls(attempt, stream))

    async def _start_tls(self, attempt: Attempt, stream: Stream) -> None:
        try:
            await stream.start_tls(tls_options(self.tls) or TlsOptions(), "")
        except ssl.SSLError as error:
            raise tls_failure(error, stream.address) from error
        stream.progress.values.update(stream.certificate_values(attempt))
