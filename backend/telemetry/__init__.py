"""Logs, lines on a terminal, and outages in a line each."""
