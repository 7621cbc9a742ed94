"""Programs, started by a guard process that outlives its worker by just as long as it takes to end them.

Belongs here: starting, watching and ending programs and all that descends from them. Does not: what a program is
started for (kinds/), or when (the executor). guard, shepherd, tree, system and wire are what the guard process imports:
they know nothing but the standard library's small modules, because each running program costs a fork of it.
"""
