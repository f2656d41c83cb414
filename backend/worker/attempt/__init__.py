"""One attempt of a task, or several, in a child process of the worker."""
