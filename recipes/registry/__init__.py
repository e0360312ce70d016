"""All stages in their order, and a stage, a size and overrides as one recipe."""
