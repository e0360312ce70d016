"""Granite for NeMo and Megatron-Core. ``granite`` and ``nemo`` turn the CPU backend on where there
is no CUDA.
"""
