"""Merging of checkpoints: weighted sums of their tensors, in bounded memory, without NeMo."""
