"""Our networks against those of other projects: the same weights, every tensor of them random, the same numbers.

Each file `test_<peer>.py` has a list of cases, which its tests run and `python -m tests.peers.table` prints.
"""
