"""Alignment after pre-training: supervised fine-tuning and reinforcement learning."""
