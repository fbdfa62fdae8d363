"""Subcommands of `segnets`, one file each: `add` declares the command, `run` executes it."""
