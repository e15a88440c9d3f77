"""Scripts that measure, and their reports; run as ``python -m benchmarks.NAME``."""
