"""Phase 3, high-quality annealing: 2T tokens; the learning rate decays exponentially from where phase 2 ends.

The numbers stand in ``recipes/spec/pretraining.py``; ``granite41 show phase3 --size 8b`` prints them with their origins.
"""

from recipes.training.pretraining import stage_factory

phase3 = stage_factory("phase3")
