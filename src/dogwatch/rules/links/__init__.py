"""Links in notices by which whoever was told acknowledges or approves, without logging in.

Belongs here: how links are made, kept and used up. Does not: their pages (web), or what acknowledging and approving
mean (rules).
"""
