"""JSON from files of strangers: one meaning only, and no answer but an object or a reason."""

from __future__ import annotations

import json

from segnets.errors import WeightsError
from segnets.garbage_collection import without_garbage_collection


def parse_object(text: bytes, what: str) -> dict[str, object]:
    """Return the object that `text` holds.

    Raises WeightsError, which names `what` ("safetensors header"), for damaged text and for names that come twice.
    """

    def unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
        found: dict[str, object] = {}
        for key, value in pairs:
            if key in found:
                raise WeightsError(f"its {what} holds the name {key[:80]!r} twice; which one is meant?")
            found[key] = value
        return found

    try:
        with without_garbage_collection():  # it would look at millions of empty lists again and again
            parsed = json.loads(text.decode("utf-8"), object_pairs_hook=unique, parse_constant=_no_constant)
    except UnicodeDecodeError:
        raise WeightsError(f"its {what} is not UTF-8 text") from None
    except RecursionError:
        raise WeightsError(f"its {what} is nested too deep") from None
    except ValueError as error:
        if isinstance(error, WeightsError):
            raise
        raise WeightsError(f"its {what} is no JSON text: it is damaged") from None
    if not isinstance(parsed, dict):
        raise WeightsError(f"its {what} is no JSON object")
    return parsed


def _no_constant(_name: str) -> object:
    raise ValueError
