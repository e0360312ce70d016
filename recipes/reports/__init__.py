"""Reports of runs and evaluations, and plots."""
