"""Only what a CPU gains from: one process that trains on a CPU uses it, every other run does without."""
