"""Training: loss, optimiser groups, schedule, backend, checkpoints, meter, the loop and the run around it."""
