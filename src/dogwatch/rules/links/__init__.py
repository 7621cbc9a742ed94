"""Links in notices by which whoever was told acknowledges, without logging in.

Belongs here: how links are made, kept and used up. Does not: their page (web), or what acknowledging means (rules).
"""
