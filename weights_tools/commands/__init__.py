"""Subcommands of `weights-tools`, one file each: `add` declares the arguments, `run` executes the command."""
