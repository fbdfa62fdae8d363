"""The commands of `weights-tools`, one file each."""
