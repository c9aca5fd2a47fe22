"""Benchmarks' pictures and questions in the data."""
