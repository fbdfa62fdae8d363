"""Table of options in docs/models.md.

`python -m benchmarks.options` prints the table, `--write` puts it into the page. A test compares the page with it.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from segnets.options import OPTIONS, TRAINING, Option
from segnets.registry import MODELS

DOCUMENT = Path(__file__).parent.parent / "docs" / "models.md"
BEGIN = "<!-- options: python -m benchmarks.options --write -->"
END = "<!-- end of options -->"


def table() -> str:
    """Return the table of all options as Markdown."""
    have = [builder.applicable({}) for builder in MODELS.values()]
    lines = ["| option | values | default | networks | meaning |", "|---|---|---|--:|---|"]
    for option in OPTIONS:
        count = len(MODELS) if option.name in TRAINING else sum(option.name in options for options in have)
        lines.append(f"| `{option.name}` | {option.allowed} | {_default(option)} | {count} | {_meaning(option)} |")
    return "\n".join(lines)


def _default(option: Option) -> str:
    return option.default_note if option.default is None else f"`{option.default!r}`"


def _meaning(option: Option) -> str:
    return f"{option.description}." + (f" Needs {option.needs}." if option.needs else "")


def read_table() -> str:
    """Return the table that the page has now.

    Raises:
        ValueError: If the page lacks one of the two markers.
    """
    return _split()[1].strip()


def _split() -> tuple[str, str, str]:
    before, begin, rest = DOCUMENT.read_text().partition(BEGIN)
    between, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{DOCUMENT}: the lines {BEGIN!r} and {END!r} must enclose the table")
    return before + begin, between, end + after


def main() -> None:
    """Print the table, or write it into the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help=f"put the table into docs/{DOCUMENT.name}")
    if parser.parse_args().write:
        before, _, after = _split()
        DOCUMENT.write_text(f"{before}\n{table()}\n{after}")
    else:
        print(table())


if __name__ == "__main__":
    main()
