"""What every command of this project does the same way: results on stdout, the rest on stderr, exit 0, 1 or 2.

0 is fine, 1 is bad input (one line on stderr, no traceback), 2 is a wrong call.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable
from types import FrameType

from segnets.errors import SegnetsError


def run_command(main: Callable[[], int | None], program: str) -> int:
    """Run `main` and turn what goes wrong into an exit code and one line on stderr.

    SIGTERM unwinds like Ctrl-C, so that temporary files are removed. A closed pipe (`| head`) ends quietly.
    """
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, _terminate)
    for stream in (sys.stdout, sys.stderr):
        # A file name that the terminal's encoding can't show must not end the command.
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="backslashreplace")
    try:
        code = main() or 0
        if sys.stdout is not None:  # None in a process that was started with it closed
            sys.stdout.flush()
    except SegnetsError as error:
        _say(f"{program}: {one_line(str(error))}")
        return 1
    except BrokenPipeError:
        # Python flushes stdout once more at exit; give it somewhere to go.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        _say(f"{program}: interrupted")
        return 130
    except MemoryError:
        _say(f"{program}: not enough memory for this input")
        return 1
    except OSError as error:
        _say(f"{program}: {one_line(str(error))}")
        return 1
    return code


def one_line(text: str) -> str:
    """Keep a message with a list of details readable, but free of control characters that a file could smuggle in."""
    return "".join(c if c.isprintable() or c == "\n" else repr(c)[1:-1] for c in text)


def _say(line: str) -> None:
    print(line, file=sys.stderr)


def _terminate(_signal: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt
