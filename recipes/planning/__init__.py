"""What stages need and cost: memory, time, energy, storage, layouts and failures, without torch."""
