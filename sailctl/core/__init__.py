"""The library under the commands; every file imports lower floors only (see tests/test_architecture.py)."""
