"""Following files: finding them, telling them apart, reading whole lines. Synchronous; no tasks, no sinks."""
