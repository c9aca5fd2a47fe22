"""Rules on samples, and what each of them drops."""
