"""Speakers behind a server, and the HTTP client."""
