"""`/api/v1`: what exists, to read and to change.

Belongs here: shapes and addresses. Does not: what a value means or whether something may be done.
"""

from __future__ import annotations

from dogwatch.web.api.access import ACCESS_HANDLERS
from dogwatch.web.api.backtests import BACKTEST_HANDLERS
from dogwatch.web.api.explain import EXPLAIN_HANDLERS
from dogwatch.web.api.fleet import FLEET_HANDLERS
from dogwatch.web.api.fleet_plans import FLEET_PLAN_HANDLERS
from dogwatch.web.api.hooks import HOOK_API_HANDLERS
from dogwatch.web.api.hosts import HOST_HANDLERS
from dogwatch.web.api.incidents import INCIDENT_HANDLERS
from dogwatch.web.api.jobs import JOB_HANDLERS
from dogwatch.web.api.locations import LOCATION_HANDLERS
from dogwatch.web.api.logs import LOG_HANDLERS
from dogwatch.web.api.maintenance import MAINTENANCE_HANDLERS
from dogwatch.web.api.notify import NOTIFY_HANDLERS
from dogwatch.web.api.program import PROGRAM_HANDLERS
from dogwatch.web.api.reports import REPORT_HANDLERS
from dogwatch.web.api.runs import RUN_HANDLERS
from dogwatch.web.api.schedules import SCHEDULE_HANDLERS
from dogwatch.web.api.targets import TARGET_HANDLERS
from dogwatch.web.api.workers import WORKER_HANDLERS

HANDLERS = (
    *TARGET_HANDLERS,
    *HOST_HANDLERS,
    *FLEET_HANDLERS,
    *FLEET_PLAN_HANDLERS,
    *JOB_HANDLERS,
    *RUN_HANDLERS,
    *WORKER_HANDLERS,
    *SCHEDULE_HANDLERS,
    *PROGRAM_HANDLERS,
    *HOOK_API_HANDLERS,
    *NOTIFY_HANDLERS,
    *INCIDENT_HANDLERS,
    *LOG_HANDLERS,
    *MAINTENANCE_HANDLERS,
    *LOCATION_HANDLERS,
    *EXPLAIN_HANDLERS,
    *REPORT_HANDLERS,
    *BACKTEST_HANDLERS,
    *ACCESS_HANDLERS,
)
