"""Everything that the project says to PostgreSQL, and nothing else."""
