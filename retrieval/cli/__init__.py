"""The command line: one file a command, each a dataclass of its arguments and a `run`."""
