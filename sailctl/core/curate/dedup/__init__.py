"""Duplicates: what is remembered of a sample, which pairs are looked at, which one of a cluster is kept."""
