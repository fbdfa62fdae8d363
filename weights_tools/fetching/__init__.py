"""Download published weights files over HTTP by name, resume interrupted downloads, and check hashes.

Only this package opens network connections, and only when `fetch` is called.
"""
