"""Finds tasks and messages that workers or the broker lost, and deletes old rows."""
