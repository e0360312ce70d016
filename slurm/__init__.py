"""Slurm clusters as data, and the chain of stages as their jobs."""
