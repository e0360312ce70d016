"""Prompts that are made up by rule, so that their gold answers are right."""
