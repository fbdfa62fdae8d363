"""Run a command with the conventions shared by all commands of this project.

Results go to stdout, everything else to stderr. The exit status is 0 for success, 1 for bad input (one line on stderr
and no traceback) and 2 for wrong usage.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import TYPE_CHECKING

from segnets.errors import SegnetsError
from segnets.interrupts import INTERRUPTED, raised

if TYPE_CHECKING:
    from segnets.card import Decoding

_LINE_FEED, _ESCAPED = re.compile(r"\n(?!  )"), r"\\n"


def counted(number: int, noun: str) -> str:
    """Return a number with its noun: "1 image", "1,200 images"."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def run_command(main: Callable[[], int | None], program: str) -> int:
    """Run `main`, and turn its errors into an exit status and one line on stderr.

    SIGTERM unwinds the stack like Ctrl-C, so temporary files are removed. A closed pipe (`| head`) is not an error.

    Args:
        main: The command. Returns its exit status, or None for 0.
        program: Name of the program, the prefix of error messages.

    Returns:
        The exit status: 0, 1 or 130 (interrupted), or what `main` returned.
    """
    import torch  # noqa: F401  # every command needs it, and `exit_at_once` holds during this import only

    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, _terminate)
    for stream in (sys.stdout, sys.stderr):
        # A file name that the terminal's encoding can't represent must not fail the command.
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="backslashreplace")
    try:
        with raised():
            code = main() or 0
        if sys.stdout is not None:  # None if the process was started with stdout closed
            sys.stdout.flush()
    except SegnetsError as error:
        _print_line(program, str(error))
        return 1
    except BrokenPipeError:
        _discard_unwritable_stdout()
        return 0
    except KeyboardInterrupt as error:  # the command may have added a hint on resuming
        _print_line(program, str(error) or "interrupted")
        return INTERRUPTED
    except MemoryError:
        _print_line(program, "not enough memory for this input")
        return 1
    except OSError as error:
        _print_line(program, str(error))
        _discard_unwritable_stdout()
        return 1
    return code


def _discard_unwritable_stdout() -> None:
    """Discard what stdout can't write. At exit, Python would try again, fail, and report status 120."""
    if sys.stdout is None:
        return
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def escape_controls(text: str) -> str:
    """Escape control characters in a message, because it may quote a hostile file. Newlines are kept."""
    return "".join(c if c.isprintable() or c == "\n" else repr(c)[1:-1] for c in text)


@contextlib.contextmanager
def progress(program: str, message: str, *, after: float = 5) -> Iterator[None]:
    """Print one line on stderr if the block takes longer than a few seconds.

    Args:
        program: Name of the program, the prefix of the line.
        message: What the program is doing.
        after: Number of seconds.
    """
    timer = threading.Timer(after, _print_line, (program, message))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _print_line(program: str, message: str) -> None:
    """Print a message. Only indented lines continue it, because a file name may contain line feeds."""
    print(f"{program}: {escape_controls(re.sub(_LINE_FEED, _ESCAPED, message))}", file=sys.stderr)


def _terminate(_signal: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def add_decoding(group: argparse.ArgumentParser | argparse._ArgumentGroup) -> None:
    """Declare the options for how logits become ids."""
    group.add_argument(
        "--decoding",
        choices=("argmax", "threshold", "multilabel"),
        help="rule that turns logits into ids. argmax: the largest logit. threshold: a sigmoid and a threshold, for "
        "one channel. multilabel: the same per class, with a plane for each. Default: the rule in the weights "
        "file; without one, argmax, or threshold for one channel",
    )
    group.add_argument(
        "--threshold",
        type=float,
        metavar="T",
        help="probability for --decoding threshold or multilabel, between 0 and 1. Default: 0.5",
    )


def decoding_of(options: argparse.Namespace) -> Decoding | None:
    """Return the decoding given by the options of `add_decoding`, or None.

    Raises:
        SegnetsError: If they contradict each other, or the threshold is not a probability.
    """
    from segnets.card import Decoding

    if options.decoding is None and options.threshold is not None:
        raise SegnetsError("--threshold needs --decoding threshold or --decoding multilabel")
    if options.decoding is None:
        return None
    try:
        return Decoding(options.decoding, 0.5 if options.threshold is None else options.threshold)
    except ValueError as error:
        raise SegnetsError(f"--threshold {options.threshold}: {error}") from None
