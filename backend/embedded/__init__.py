"""PostgreSQL and Valkey from wheels, for `tasks-api up` where the settings name no servers."""
