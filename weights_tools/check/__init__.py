"""Check weights: their values, and the outputs of their network against the source's."""
