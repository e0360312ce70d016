"""Phase 4, refinement: 0.5T tokens; the learning rate goes linearly to zero.

The numbers stand in ``recipes/spec/pretraining.py``; ``granite41 show phase4 --size 8b`` prints them with their origins.
"""

from recipes.training.pretraining import stage_factory

phase4 = stage_factory("phase4")
