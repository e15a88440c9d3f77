"""Stage 1: train a teacher, run it once, write its targets to the store."""
