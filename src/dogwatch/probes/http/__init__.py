"""HTTP spoken by the probe engine: requests, answers, the attempt's state machine, and the slow lane on libcurl.

Belongs here: what the http kind needs. Does not: the options themselves (probes/kinds/http.py).
"""
