"""The command line: one file a command, each with a dataclass of its arguments and a `main`."""
