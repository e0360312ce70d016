"""A model's Hugging Face folder: the one reader of its config, weights and files."""
