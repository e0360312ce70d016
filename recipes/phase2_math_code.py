"""Phase 2, mathematics and code: 2T tokens; the weights, moments and power learning rate of phase 1 go on.

The numbers stand in ``recipes/spec/pretraining.py``; ``granite41 show phase2 --size 8b`` prints them with their origins.
"""

from recipes.training.pretraining import stage_factory

phase2 = stage_factory("phase2")
