"""What the service is measured against: a few lines each, as their own documentation has it."""
