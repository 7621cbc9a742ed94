"""What the public is told: which targets a status page shows, its incidents and planned work, and who wants to hear.

Belongs here: what may be shown to anybody, by configuration alone. Does not: pages (web), and what is wrong (rules).
"""
