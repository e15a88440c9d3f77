"""The steps of the command line, with their progress; cli.py, demo and benchmarks share them."""
