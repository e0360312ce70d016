"""Supervised fine-tuning and reinforcement learning on NeMo-Aligner.

What both share: the modules ``processes``, ``model``, ``optimizer``, ``checkpoint`` and
``packed_batch``.
"""
