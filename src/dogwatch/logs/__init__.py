"""Logs: sources, transforms, sinks, the buffers and checkpoints between them. What a rule makes of them does not."""
