"""Parse JSON from untrusted files: no duplicate names, no constants such as NaN, bounded nesting."""

from __future__ import annotations

import json

from segnets.errors import WeightsError
from segnets.garbage_collection import without_garbage_collection


def parse_object(text: bytes, what: str) -> dict[str, object]:
    """Parse a JSON object.

    Args:
        text: UTF-8 text.
        what: Name of the text in messages, for example "safetensors header".

    Raises:
        WeightsError: If the text is damaged, is not an object, or has duplicate names.
    """

    def unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
        found: dict[str, object] = {}
        for key, value in pairs:
            if key in found:
                raise WeightsError(f"the {what} holds the name {key[:80]!r} twice")
            found[key] = value
        return found

    try:
        with without_garbage_collection():  # a collection would traverse millions of lists each time
            parsed = json.loads(text.decode("utf-8"), object_pairs_hook=unique, parse_constant=_no_constant)
    except UnicodeDecodeError:
        raise WeightsError(f"the {what} is not UTF-8 text") from None
    except RecursionError:
        raise WeightsError(f"the {what} is nested too deeply") from None
    except ValueError as error:
        if isinstance(error, WeightsError):
            raise
        raise WeightsError(f"the {what} is damaged: it is not JSON") from None
    if not isinstance(parsed, dict):
        raise WeightsError(f"the {what} is not a JSON object")
    return parsed


def _no_constant(_name: str) -> object:
    raise ValueError
