"""Captions for pictures by the million: prompts, tasks, and the pipeline from data shards to sealed sidecars."""
