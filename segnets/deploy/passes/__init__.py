"""Passes that rewrite a network for deployment."""
