"""The worker's parent process: reads messages, gives attempts to children, renews the lease."""
