"""What the command line does: each step with its progress, shared by cli.py, demo and benchmarks."""
