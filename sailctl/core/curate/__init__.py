"""Curation: passes over the samples of sources that measure, judge, choose and mix them; data stay as they are."""
