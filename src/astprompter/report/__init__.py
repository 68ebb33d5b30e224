"""Run directories to one page that a person can open, understand and send on; reads files, runs no model."""
