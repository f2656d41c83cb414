"""Publishes the rows of the outbox to the broker."""
