"""Recipes for IBM's Granite 4.1 language models. Importing this package loads neither torch nor NeMo."""
