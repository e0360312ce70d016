"""Quality steps for pre-training text: normalisation, lengths, duplicates, contamination by evaluation texts."""
