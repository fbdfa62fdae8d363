"""Fuzz the reader of foreign checkpoints: `make fuzz` changes real files a million times and checks every promise.

`seeds` holds the real files. `structure` edits the parts of a file (archive entries, pickle opcodes, JSON values) and
writes it back with correct checksums. `reading` does with a file what weights_tools does; `promises` watches it.
`engines` choose the inputs: "structure" draws edits at random and shortens the inputs that fail, and "coverage" lets
atheris choose the inputs that reach new code. `__main__` starts worker processes, each with one engine.
"""

STAGES = ("container", "content", "opened", "weights", "network")  # how far a file came: the last that read it
