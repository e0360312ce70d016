"""Prompts for reinforcement learning: made up by rule, or of public data sets."""
