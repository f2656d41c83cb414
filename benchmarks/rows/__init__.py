"""The rows of the budget: each `run(bench)` yields the lines of the table that it measures."""
