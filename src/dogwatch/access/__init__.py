"""Who may do what, and who did what: users, tokens, roles, permission checks, the audit trail.

Belongs here: subjects, permissions and the audit chain, over the state database. Does not: web pages, cookies.
"""
