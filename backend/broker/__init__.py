"""The broker: what a task looks like as a message."""
