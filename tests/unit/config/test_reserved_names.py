"""What commands read of the environment is no setting: a daemon that is started with it starts."""

from __future__ import annotations

import re
from pathlib import Path

import dogwatch
from dogwatch.config.overrides import RESERVED


def test_every_variable_that_a_command_reads_is_reserved() -> None:
    folder = Path(dogwatch.__file__).parent / "cli"
    found = {name for file in folder.glob("*.py") for name in re.findall(r'"(DOGWATCH_[A-Z_]+)"', file.read_text())}
    assert {"DOGWATCH_CERT", "DOGWATCH_KEY", "DOGWATCH_CONTEXTS"} <= found
    # Of the shell's completion: there is no daemon then.
    assert found - {"DOGWATCH_COMPLETE"} <= RESERVED
