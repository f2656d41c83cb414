"""The tasks: one file each. A new file here is a new task; see CONTRIBUTING.md."""
