"""Training judges the data: the decisions of quick, compose and incremental evaluation behind a seam of two callables.

Nothing here trains or scores: `trainer` and `bench` come from outside (see `seam.py`), be they real or simulated.
"""
