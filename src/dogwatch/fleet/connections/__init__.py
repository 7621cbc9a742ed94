"""The ways to reach a host, one file each. What they share (commands, prompts, output) lives a folder higher."""
