"""Training data for the recipes: collecting text, training a tokenizer, writing Megatron's files.

Importing this package loads neither torch nor Megatron.
"""
