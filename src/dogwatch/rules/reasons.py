"""What a failed attempt's reason says to people: one word of probes.probe.REASONS to a few of theirs. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from dogwatch.words import Phrase

REASONS: Mapping[str, Phrase] = {
    "timeout": Phrase("timeout"),
    "resolve": Phrase("name not found"),
    "refused": Phrase("connection refused"),
    "unreachable": Phrase("not reachable"),
    "reset": Phrase("connection lost"),
    "tls": Phrase("TLS failed"),
    "certificate": Phrase("certificate not accepted"),
    "protocol": Phrase("not the expected protocol"),
    "status": Phrase("unexpected status"),
    "too_large": Phrase("answer too large"),
    "redirects": Phrase("bad redirects"),
    "mismatch": Phrase("unexpected answer"),
    "exit": Phrase("ended with a failure"),
    "missing": Phrase("has not called yet"),
    "unhealthy": Phrase("unhealthy"),
    "late": Phrase("overdue"),
    "expectation": Phrase("expectation not met"),
    "local": Phrase("could not be asked from here"),
}


def reason_of(word: str) -> str:
    """Return a reason for people; what a plugin brought as it is."""
    return REASONS.get(word) or word.replace("_", " ")
