"""The peers of the service: each is a few lines, written as its documentation shows."""
