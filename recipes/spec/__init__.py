"""The plain layer: sizes, schedules, parallelism and what else all stages share. Imports neither torch nor NeMo."""
