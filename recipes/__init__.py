"""Recipes for IBM's Granite 4.1 language models: a module for each stage, and what they share."""
