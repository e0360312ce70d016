"""Phase 1, general pre-training: 10T tokens at sequence length 4,096, the power learning rate with its warm-up.

The numbers stand in ``recipes/spec/pretraining.py``; ``granite41 show phase1 --size 8b`` prints them with their origins.
"""

from recipes.training.pretraining import stage_factory

phase1 = stage_factory("phase1")
