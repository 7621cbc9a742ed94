"""`/api/v1`: what exists, to read, and the few writes that the command line needs.

Belongs here: shapes and addresses. Does not: what a value means or whether something may be done.
"""

from __future__ import annotations

from dogwatch.web.api.access import ACCESS_HANDLERS
from dogwatch.web.api.hosts import HOST_HANDLERS
from dogwatch.web.api.program import PROGRAM_HANDLERS
from dogwatch.web.api.targets import TARGET_HANDLERS

HANDLERS = (*TARGET_HANDLERS, *HOST_HANDLERS, *PROGRAM_HANDLERS, *ACCESS_HANDLERS)
