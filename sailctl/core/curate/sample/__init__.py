"""Balanced parts of exact sizes."""
