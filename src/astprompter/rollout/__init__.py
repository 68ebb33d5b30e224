"""Conversations, their rewards, and preference pairs."""
