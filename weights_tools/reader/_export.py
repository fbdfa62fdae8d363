"""Describe a file that `segnets.export` wrote, to refuse it: its weights were rewritten and can't be converted back."""

from __future__ import annotations

import json

from weights_tools._text import printable

EXPORTED = (
    "Its weights were rewritten and can't be converted back: pass the .safetensors or the checkpoint that it was made "
    "from. `segnets info` describes the export."
)


def explain_export(contract: bytes | memoryview) -> str:
    """Return why an export is refused, with the facts in its contract (`segnets.json`)."""
    try:
        document = json.loads(bytes(contract))
    except (ValueError, RecursionError):
        document = None
    document = document if isinstance(document, dict) else {}
    model = document.get("model")
    facts = [document.get("kind"), model.get("name") if isinstance(model, dict) else None]
    named = [printable(fact, quote=False) for fact in facts if isinstance(fact, str)]
    classes = document.get("num_classes")
    named += [f"{classes} classes"] if type(classes) is int else []
    described = f" ({', '.join(named)})" if named else ""
    return f"the file is an export of segnets{described}. {EXPORTED}"
