"""What only `tasks-api up` uses: the supervisor, and PostgreSQL and Valkey from wheels."""
