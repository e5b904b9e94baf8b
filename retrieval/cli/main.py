"""Entry point of the command `reelscan`: finds the command, derives its arguments, reports errors.

Exit codes: 0 done, 1 what was asked could not be done, 2 wrong usage, 130 interrupted.
"""

import difflib
import importlib
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

from reelscan import __version__

COMMANDS = {
    "demo": "the whole way on a small rendered corpus: pretrain, index, evaluate, search",
    "shards": "write captioned videos into WebDataset shards, or check shards",
    "pretrain": "pretrain a video and a text encoder on shards",
    "index": "embed a folder of videos into a searchable collection",
    "search": "find moments in a collection from a sentence or an example video",
    "serve": "a web page and an API that search a collection",
    "evaluate": "zero-shot text-video retrieval on an annotation file",
    "classify": "how well a model tells classes: zero-shot, nearest neighbours, linear probe",
    "model": "inspect a model directory or a weight file",
    "doctor": "what runs on this machine, and why not",
}
HELP = """usage: reelscan COMMAND [options]

Finds any video, and any moment in it, from a sentence.

commands:
{commands}

examples:
  reelscan demo
  reelscan index ~/films --model demo-run/pretrain/model --to films.collection
  reelscan search films.collection "a red square moves left, then stops" --top 10

`reelscan COMMAND --help` tells a command's options; `reelscan --version` the version.
Set REELSCAN_TRACEBACK=1 to see where an error came from."""


def main() -> NoReturn:
    """Runs the command in `sys.argv` and exits with its code."""
    try:
        code = run_command(sys.argv[1:])
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader of a pipe has gone; give the interpreter's own flush somewhere to go.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 1
    sys.exit(code)


def run_command(arguments: Sequence[str]) -> int:
    """Runs one command and returns its exit code; a user's mistake becomes one line on stderr."""
    name = arguments[0] if arguments else "--help"
    if name in ("-h", "--help", "help"):
        print(help_text())
        return 0 if arguments else 2
    if name in ("-V", "--version"):
        print(f"reelscan {__version__}")
        return 0
    if name not in COMMANDS:
        return report_unknown(name)
    try:
        return call(name, list(arguments[1:]))
    except KeyboardInterrupt:
        print("interrupted; what was finished is kept", file=sys.stderr)
        return 130
    except BrokenPipeError:
        raise
    except (ValueError, OSError, ImportError) as error:
        if os.environ.get("REELSCAN_TRACEBACK"):
            raise
        print(f"reelscan {name}: {error_text(error)}", file=sys.stderr)
        return 1


def call(name: str, arguments: list[str]) -> int:
    """Runs a command; wrong options exit with 2."""
    # Threads that spin long while they wait take the core from whatever they wait for when anything
    # else runs on the machine. Read when torch is imported.
    os.environ.setdefault("GOMP_SPINCOUNT", "2000")
    # Imported by name so that `reelscan --help` does not wait for torch.
    module = importlib.import_module(f"reelscan.retrieval.cli.{name}")
    code: int = module.main(arguments)
    return code


def help_text() -> str:
    rows = [f"  {name:<10}{summary}" for name, summary in COMMANDS.items()]
    return HELP.format(commands="\n".join(rows))


def report_unknown(name: str) -> int:
    close = difflib.get_close_matches(name, COMMANDS, n=1)
    hint = f"did you mean `reelscan {close[0]}`?" if close else f"commands: {', '.join(COMMANDS)}"
    print(f"reelscan: no command {name!r}; {hint}", file=sys.stderr)
    return 2


def error_text(error: Exception) -> str:
    """One line for a person; the operating system's errors name the file first."""
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        return f"{error.filename}: {error.strerror}"
    return str(error) or type(error).__name__


if __name__ == "__main__":
    main()
