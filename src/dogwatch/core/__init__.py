"""Values, the component seam, the clock and the runtime kernel. No I/O, no feature, nothing that knows a section.

Belongs here: what every feature shares. Does not: anything that opens a file, socket or process, or reads the
environment.
"""
