"""The command line: `inscape sites | run | generate | record | sweep | steer | store | report | plan | papers`.

Each command is thin over the library.

Exit codes: 0 fine, 1 an error that inscape explains, 2 wrong usage, 130 interrupted. Nothing heavy is imported before
a command runs, so that help is quick and needs no torch.
"""

import os
import sys
from collections.abc import Sequence

from cyclopts import App, CycloptsError

import inscape
from inscape.cli import papers
from inscape.cli.generate import generate
from inscape.cli.plan import plan
from inscape.cli.record import record
from inscape.cli.report import report
from inscape.cli.run import run
from inscape.cli.sites import sites
from inscape.cli.steer import steer
from inscape.cli.store import repair, show, verify
from inscape.cli.sweep import sweep
from inscape.core.errors import InscapeError

OK, FAILED, USAGE, INTERRUPTED = 0, 1, 2, 130


def build() -> App:
    """The commands and their help."""
    app = App(
        name="inscape",
        help="Read, change and report on the inside of neural networks.\n\n"
        "MODEL is a demo name (gemma-3-270m), a Hugging Face folder or id, or a .gguf file.",
        version=inscape.__version__,
        result_action="return_value",
        suppress_keyboard_interrupt=False,  # main answers it
    )
    for command, takes in (
        (sites, "MODEL [PATTERN]"),
        (run, "MODEL TEXT..."),
        (generate, "MODEL TEXT..."),
        (record, "MODEL DATA --to FOLDER"),
        (sweep, "MODEL CLEAN CORRUPTED --answer A --wrong B"),
        (steer, "MODEL POSITIVE NEGATIVE"),
        (report, "MODEL [TEXTFILE]"),
        (plan, "MODEL"),
    ):
        app.command(command, usage=f"Usage: inscape {command.__name__} {takes} [OPTIONS]")
    store = App(name="store", help="Look at, check and mend a folder of recorded activations.")
    for command in (show, verify, repair):
        store.command(command, usage=f"Usage: inscape store {command.__name__} FOLDER [OPTIONS]")
    app.command(store)
    catalogue = App(name="papers", help="The papers that are here: what they claim, and whether it held.")
    catalogue.command(papers.list_papers, name="list", usage="Usage: inscape papers list [OPTIONS]")
    catalogue.command(papers.search, usage="Usage: inscape papers search WORDS... [OPTIONS]")
    for command in (papers.show, papers.run):
        catalogue.command(command, usage=f"Usage: inscape papers {command.__name__} NAME [OPTIONS]")
    app.command(catalogue)
    return app


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code. argv: without the program's name; the process's own when left out."""
    argv = list(sys.argv[1:] if argv is None else argv)
    try:
        build()(argv, exit_on_error=False, print_error=False)
        sys.stdout.flush()
    except CycloptsError as error:
        print(
            f"inscape: {error}\n  inscape --help lists the commands, inscape COMMAND --help their options.",
            file=sys.stderr,
        )
        return USAGE
    except InscapeError as error:
        if "--debug" in argv:
            raise
        print(f"inscape: {error}", file=sys.stderr)
        return FAILED
    except KeyboardInterrupt:
        print("inscape: interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:  # `inscape sites ... | head`: the reader has had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except Exception as error:  # a fault of ours or of a library: one line, and how to see where
        if "--debug" in argv:
            raise
        said = str(error).splitlines()
        print(
            f"inscape: unexpected {type(error).__name__}: {said[0] if said else 'no message'}\n"
            "  the same command with --debug shows where it happened.",
            file=sys.stderr,
        )
        return FAILED
    return OK
