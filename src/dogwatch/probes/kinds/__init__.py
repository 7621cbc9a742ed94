"""One file per kind of probe, and the list of them.

Belongs here: a kind's options and how it asks. Does not: schedules, states and expectations (the watch).
"""

from dogwatch.core.component import Registry
from dogwatch.probes.kinds.http import HttpProbe
from dogwatch.probes.probe import Probe

PROBES: Registry[Probe] = Registry("probe", HttpProbe)
