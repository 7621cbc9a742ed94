"""Webhooks that come in: signatures, replay protection, filters, mapping to jobs, deliveries and their replay.

Belongs here: from the bytes of a request to a stored delivery and its run. Does not: HTTP (web), what a run does
(engine), webhooks that go out (notify).
"""
