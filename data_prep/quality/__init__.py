"""Quality steps for pre-training text: normalization, lengths, duplicates, contamination."""
