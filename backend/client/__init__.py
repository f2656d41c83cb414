"""The commands that talk to a running API; they need nothing else of the service."""
