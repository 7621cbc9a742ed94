"""Names that vulture takes for dead and that are not: called by a framework."""
