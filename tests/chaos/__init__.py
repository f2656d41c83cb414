"""The chaos suite: mixed work during the faults of a seeded schedule, followed by a check."""
