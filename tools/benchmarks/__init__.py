"""The comparisons of `tools/benchmark.py`, one file for each subject."""
