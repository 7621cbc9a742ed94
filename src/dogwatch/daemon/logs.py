"""Logging of the daemon: one line an event on stderr, as text for people or JSON for machines."""

from __future__ import annotations

import logging
import sys
import time

import msgspec

# What a service manager's journal, a container and a terminal all understand; no files of our own.
_TEXT = "%(asctime)s %(levelname)-7s %(name)s: %(message)s"


class _Text(logging.Formatter):
    converter = staticmethod(time.gmtime)
    default_time_format = "%Y-%m-%dT%H:%M:%S"
    default_msec_format = "%s.%03dZ"

    def format(self, record: logging.LogRecord) -> str:
        # A name or an answer from outside must not be able to forge a line.
        return super().format(record).replace("\r", "\\r") if record.exc_info else _one_line(super().format(record))


class _Json(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        entry = {
            "time_s": round(record.created, 3),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        return msgspec.json.encode(entry).decode()


def _one_line(text: str) -> str:
    return text.replace("\r", "\\r").replace("\n", "\\n")


def start_logging(level: str, form: str) -> None:
    """Send what is logged to stderr."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Json() if form == "json" else _Text(_TEXT))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    # uvicorn tells every start and stop of its own; ours are told by the supervisor.
    logging.getLogger("uvicorn").setLevel(logging.WARNING)
