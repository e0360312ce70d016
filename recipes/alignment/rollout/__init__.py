"""Answers of the policy to prompts, by its own process or by servers, with log-probabilities."""
