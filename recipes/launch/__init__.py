"""A chain of tasks, on this machine or on a cluster."""
