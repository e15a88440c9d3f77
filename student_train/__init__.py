"""Stage 2: train and evaluate a student from the store."""
