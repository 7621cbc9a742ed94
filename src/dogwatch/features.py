"""What the features offer: kinds of actions, sections of the configuration, tables of the state database.

Belongs here: lists. Does not: anything that runs; app.py joins that.
"""

from __future__ import annotations

from typing import Any

from dogwatch.access.options import ACCESS
from dogwatch.access.tables import access_tables
from dogwatch.config.section import Section
from dogwatch.core.component import Registry
from dogwatch.diagnose.self_watch import SECTION as SELF_WATCH
from dogwatch.engine.action import Action
from dogwatch.engine.jobs import jobs_section
from dogwatch.engine.kinds import ENGINE_ACTIONS
from dogwatch.engine.parameters import parameter_mistakes
from dogwatch.engine.schedules.section import schedules_section
from dogwatch.engine.schedules.tables import schedule_tables
from dogwatch.engine.section import ENGINE
from dogwatch.engine.tables import engine_tables
from dogwatch.engine.traces import TRACES
from dogwatch.fleet.action import SshAction
from dogwatch.fleet.book.tables import fleet_tables
from dogwatch.fleet.desked import ApplyAction, PlanAction
from dogwatch.fleet.planned import DriftAction, PlaybookAction
from dogwatch.fleet.section import FLEET
from dogwatch.hosts.section import HOST
from dogwatch.logs.section import LOGS
from dogwatch.notify.action import NotifyAction
from dogwatch.notify.section import NOTIFY
from dogwatch.notify.tables import notify_tables
from dogwatch.probes.blackbox import MODULES
from dogwatch.probes.kinds import PROBES
from dogwatch.probes.spec import probes_section
from dogwatch.reports.action import ReportAction
from dogwatch.rules.escalation import incidents_section
from dogwatch.rules.links.tables import link_tables
from dogwatch.rules.maintenance import MAINTENANCE
from dogwatch.rules.outside.tables import outside_tables
from dogwatch.rules.planned.tables import maintenance_tables
from dogwatch.rules.quorum.spec import LOCATIONS
from dogwatch.rules.quorum.tables import quorum_tables
from dogwatch.rules.remedy.checks import across
from dogwatch.rules.remedy.compile import of_probes, of_rules, of_services
from dogwatch.rules.remedy.doing import Sections
from dogwatch.rules.remedy.evidence import EvidenceAction
from dogwatch.rules.remedy.services import services_section
from dogwatch.rules.remedy.spec import REMEDIATION
from dogwatch.rules.remedy.tables import remedy_tables
from dogwatch.rules.spec import rules_section
from dogwatch.rules.tables import incident_tables
from dogwatch.status.section import STATUS_PAGE
from dogwatch.status.tables import status_tables
from dogwatch.store.database import Tables
from dogwatch.store.limits import STORE
from dogwatch.store.state import DATABASE
from dogwatch.webhooks.section import HOOKS
from dogwatch.webhooks.tables import webhook_tables

# Every kind of action there is, the engine's own and the features'.
ACTIONS: Registry[Action] = Registry(
    "action",
    *ENGINE_ACTIONS,
    NotifyAction,
    ReportAction,
    SshAction,
    PlaybookAction,
    DriftAction,
    PlanAction,
    ApplyAction,
    EvidenceAction,
)
JOBS = jobs_section(ACTIONS)


def _by_ssh(host: str, script: str) -> Action:
    return SshAction(run=script, targets=host)


PROBES_SECTION = probes_section(PROBES, ACTIONS, across(of_probes, JOBS, NOTIFY))
SCHEDULES = schedules_section(JOBS, parameter_mistakes)
INCIDENTS = incidents_section(NOTIFY)
RULES = rules_section(NOTIFY, INCIDENTS, ACTIONS, across(of_rules, JOBS, NOTIFY))
SERVICES = services_section(ACTIONS, PROBES_SECTION, across(lambda specs: of_services(specs, _by_ssh), JOBS, NOTIFY))
DOING = Sections(rules=RULES, probes=PROBES_SECTION, services=SERVICES, ssh=_by_ssh)
# What the features offer to the configuration; the daemon adds its own.
SECTIONS: tuple[Section[Any], ...] = (
    PROBES_SECTION,
    MODULES,
    HOST,
    FLEET,
    JOBS,
    SCHEDULES,
    HOOKS,
    NOTIFY,
    RULES,
    INCIDENTS,
    SERVICES,
    REMEDIATION,
    MAINTENANCE,
    LOCATIONS,
    STATUS_PAGE,
    LOGS,
    ENGINE,
    TRACES,
    STORE,
    DATABASE,
    SELF_WATCH,
    ACCESS,
)


def state_tables() -> tuple[Tables, ...]:
    """Return the tables of every layer that has any in the state database."""
    return (
        access_tables(),
        engine_tables(),
        schedule_tables(),
        notify_tables(),
        webhook_tables(),
        incident_tables(),
        maintenance_tables(),
        outside_tables(),
        link_tables(),
        quorum_tables(),
        remedy_tables(),
        fleet_tables(),
        status_tables(),
    )
