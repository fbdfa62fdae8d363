"""The subcommands of `weights-tools`, one file each: `add` declares it, `run` does it."""
