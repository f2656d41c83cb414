"""Helpers of the tests, such as servers, a TCP proxy, and waiting for a condition."""
