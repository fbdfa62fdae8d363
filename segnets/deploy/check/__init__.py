"""Checks of an exported file: reference logits, the tolerance for its own, and the golden pair that it carries."""
