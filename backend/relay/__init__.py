"""From the outbox to the broker, and back to the outbox what was lost on the way."""
