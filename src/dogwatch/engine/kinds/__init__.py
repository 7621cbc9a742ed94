"""One file per kind of action of the engine itself."""
