"""Who generates text: here the local model; a sibling of `data/`, importing nothing of it."""
