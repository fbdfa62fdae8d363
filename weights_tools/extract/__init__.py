"""Extract one flat state dict from the content of a checkpoint."""
