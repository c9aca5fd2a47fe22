"""Annotation: people judge samples in a page of their browser; their answers become opinions as a model's do."""
