"""The broker: the Celery application, a task as a message, what the broker's errors mean."""
