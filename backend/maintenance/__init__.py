"""Finds what was lost with a worker or with the broker, and removes what is old."""
