"""The rows of the benchmark: each `run(bench)` yields the lines of the table that it measures."""
