"""What verdicts keep, as shards."""
