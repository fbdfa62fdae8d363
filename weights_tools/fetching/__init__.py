"""Download published weights files over HTTP by name, resume interrupted downloads, and check hashes.

In this project, only this package and the reading of shards from a server (`segnets.data.remote`) open network
connections.
"""
