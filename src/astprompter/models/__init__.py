"""Speakers: local language models, scripts, and (by later kinds) servers."""
