"""Remedies of a configuration: read with it, compiled when it is known what is watched."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from dogwatch.config.part import Configuration
from dogwatch.config.section import Section
from dogwatch.engine.schedules.plan import Zones
from dogwatch.engine.spec import JobSpec
from dogwatch.rules.maintenance import Maintenance, build_maintenance
from dogwatch.rules.remedy.acting import Acting
from dogwatch.rules.remedy.compile import Ssh, Wanted, jobs_of, remedies_of, sources
from dogwatch.rules.remedy.spec import REMEDIATION
from dogwatch.rules.remedy.text import text_of, version_of
from dogwatch.rules.remedy.values import Remedies
from dogwatch.rules.sight import Known
from dogwatch.rules.spec import RuleSpec


class Sections(msgspec.Struct, frozen=True, kw_only=True):
    """Where configuration says what is done. ssh: makes an action of a script for a host of the fleet."""

    rules: Section[Any]
    probes: Section[Any]
    services: Section[Any]
    ssh: Ssh

    def wanted(self, configuration: Configuration) -> Wanted:
        return Wanted(
            rules=configuration.get(self.rules),
            probes=configuration.get(self.probes),
            services=configuration.get(self.services),
            options=configuration.get(REMEDIATION),
        )

    def jobs(self, configuration: Configuration) -> Sequence[JobSpec]:
        """Return the jobs that carry remedies out, for the engine."""
        return jobs_of(self.wanted(configuration), self.ssh)


class Doings:
    """What the part of incidents is given to act with."""

    def __init__(self, sections: Sections, acting: Acting) -> None:
        self._sections, self.acting = sections, acting

    def read(self, configuration: Configuration, zones: Zones) -> Doing:
        wanted = self._sections.wanted(configuration)
        freeze = tuple(build_maintenance(spec, zones) for spec in wanted.options.freeze)
        return Doing(wanted, self._sections.ssh, freeze)


class Doing:
    """What one configuration says."""

    def __init__(self, wanted: Wanted, ssh: Ssh, freeze: Sequence[Maintenance]) -> None:
        self._wanted, self._ssh = wanted, ssh
        self.freeze = tuple(freeze)

    def remedies(self, known: Sequence[Known], rules: Sequence[RuleSpec] | None = None) -> Remedies:
        """Return the remedies. rules: in place of those in force."""
        wanted = self._wanted if rules is None else msgspec.structs.replace(self._wanted, rules=rules)
        return remedies_of(wanted, self._ssh, known)

    def texts(self) -> Mapping[str, tuple[str, str]]:
        """Return the texts of all that decides: version → (name, text)."""
        found = {version_of(text): (spec.name, text) for spec in self._wanted.rules for text in (text_of(spec),)}
        for source in sources(self._wanted, self._ssh):
            found[version_of(source.text)] = (source.name, source.text)
        return found
