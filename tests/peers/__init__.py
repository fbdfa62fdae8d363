"""Compare our networks with those of other projects: the same random weights have to give the same outputs.

Each file `test_<peer>.py` has a list of cases, which its tests run and `python -m tests.peers.table` prints.
"""
