"""The run directory, and the schema of its files."""
