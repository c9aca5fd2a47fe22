"""Scaling laws and correlations: fits, intervals and tests on plain numbers; no I/O."""
