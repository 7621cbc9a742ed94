"""sudo and su: the command that they are asked for, and the conversation over its prompt.

The password is written when the prompt has come, once, and nothing else is written before the command says that it has
begun: blindly sent, a password would be read by the command where sudo asks for none.
"""

from __future__ import annotations

import secrets
import shlex

from dogwatch.fleet.connection import Become, HostFailed, State

_TELL_BYTES = 4096
_AFTERWARDS = "error initializing audit plugin"


class Gate:
    """Reads stderr until the command has begun. `wrap` first; then `feed` every piece of stderr."""

    def __init__(self, become: Become) -> None:
        self._become = become
        mark = secrets.token_hex(8)
        self._prompt = f"[dogwatch {mark}] password: ".encode()
        self._begun = f"dogwatch-begun-{mark}\n".encode()
        self._seen = b""
        self._answered = False
        self.open = False

    def wrap(self, script: str) -> str:
        """Return the script that runs the given one as the other user. Raises: HostFailed."""
        inner = f"echo {self._begun.decode().strip()} >&2; {script}"
        user = shlex.quote(self._become.user)
        if self._become.method == "su":
            return f"exec su {user} -s /bin/sh -c {shlex.quote(inner)}"
        if self._become.method != "sudo":
            raise HostFailed(
                State.MISCONFIGURED, f"cannot become another user by '{self._become.method}'", hint="known: sudo, su"
            )
        how = "-n" if self._become.password is None else f"-S -p {shlex.quote(self._prompt.decode())}"
        return f"exec sudo -H {how} -u {user} -- /bin/sh -c {shlex.quote(inner)}"

    def feed(self, data: bytes) -> tuple[bytes, bytes]:
        """Return what is to be written to stdin, and what of stderr is the command's own.

        Raises: HostFailed where the password was not taken.
        """
        if self.open:
            return b"", data
        self._seen += data
        before, begun, after = self._seen.partition(self._begun)
        if begun:
            self.open = True
            return b"", after
        if self._asks():
            self._seen = b""
            if self._answered or self._become.password is None:
                raise HostFailed(State.BECOME_FAILED, self._refusal())
            self._answered = True
            return self._become.password.encode() + b"\n", b""
        self._seen = before[-_TELL_BYTES:]
        return b"", b""

    def failure(self) -> HostFailed:
        """Return why the command never began, by what sudo or su said."""
        lines = [line.strip() for line in self._seen.decode(errors="replace").splitlines() if line.strip()]
        # The cause stands before what sudo says of itself at the end.
        told = next((line for line in reversed(lines) if _AFTERWARDS not in line), lines[-1] if lines else "")
        return HostFailed(State.BECOME_FAILED, told[:300] or f"{self._become.method} ended without a word")

    def _asks(self) -> bool:
        if self._become.method == "su":
            return self._seen.rstrip().lower().endswith((b"password:", b"passwort:", b"mot de passe :"))
        return self._prompt in self._seen

    def _refusal(self) -> str:
        if self._become.password is None:
            return f"{self._become.method} asks for a password, and none is set"
        return f"{self._become.method} did not take the password"
