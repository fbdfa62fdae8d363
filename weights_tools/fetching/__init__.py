"""Download published weights files over HTTP: found by name, resumed where they broke off, checked by their hash.

Only this package opens network connections, and only when `fetch` is called.
"""
