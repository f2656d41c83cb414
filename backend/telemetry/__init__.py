"""Logs, lines on a terminal, and one line for each outage."""
