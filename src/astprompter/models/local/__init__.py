"""Speakers that run here: local language models, replayed dialogues, a proxy for likelihoods."""
