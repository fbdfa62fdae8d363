"""Fuzzing of what reads foreign files: real files of every container, changed at random, a million times. `make fuzz`.

seeds: the real files. document: a file taken apart, so that its parts can be changed and it can be put together again
with correct checksums and lengths. mutate: the changes. target: one execution and the promises that it must keep.
worker, run: the engines, their processes and their report.
"""
