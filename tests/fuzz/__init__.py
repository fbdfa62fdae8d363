"""Fuzz the reader of foreign checkpoints: `make fuzz` changes real files a million times and checks every promise.

`seeds` holds the real files. `structure` edits the parts of a file (archive entries,
pickle opcodes, JSON values) and writes it back with correct checksums. `reading` does with a file what weights_tools
does; `promises` watches it. `worker` runs one engine: "structure", which draws edits at random and shortens the inputs
that fail, or "coverage", which lets atheris choose the inputs that reach new code. `__main__` starts the workers.
"""
