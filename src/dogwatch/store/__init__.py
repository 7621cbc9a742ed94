"""Tables, migrations, history with retention and roll-up.

Belongs here: how records are kept and found. Does not: what they mean, or when to write one.
"""
