"""What a command does, as functions of settings."""
