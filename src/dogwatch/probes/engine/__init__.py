"""The probe engine: one epoll for every socket, deadline and name that probes wait for, joined to the event loop.

Belongs here: sockets, deadlines, name resolution, racing connections, TLS. Does not: any protocol spoken over them.
"""

from dogwatch.probes.engine.engine import Engine
from dogwatch.probes.engine.options import EngineOptions

__all__ = ["Engine", "EngineOptions"]
