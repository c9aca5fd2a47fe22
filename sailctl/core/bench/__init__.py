"""Benchmark suites, their statistics, and the run that scores a checkpoint."""
