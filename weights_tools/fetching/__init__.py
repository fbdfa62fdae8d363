"""Published weight files over HTTP: found by name, resumed where they broke off, kept only if their hash is right.

The one room of the project that opens a connection, and only when somebody called `fetch`.
"""
