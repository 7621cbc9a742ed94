"""Reports of what was: availability, and the daily inspection.

Belongs here: what a report says, and how it reads as text and CSV. Does not: pages (web), and when it is sent (jobs).
"""
