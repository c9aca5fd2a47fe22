"""Judging by a model, the one table of opinions, and how far judges agree."""
