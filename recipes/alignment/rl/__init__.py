"""Reinforcement learning: on-policy GRPO with the DAPO loss."""
