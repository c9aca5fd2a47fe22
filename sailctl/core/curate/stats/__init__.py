"""Statistics of captions: languages, lengths, sizes, what they are made of."""
