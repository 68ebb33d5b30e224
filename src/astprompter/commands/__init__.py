"""Subcommands of the command line that need more than one function each."""
