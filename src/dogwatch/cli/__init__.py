"""The command line. Groups are loaded when they are called, so that start-up stays fast."""
