"""Long-context extension to 32K, 128K and 512K (8b and 30b): a longer sequence and a larger theta in each stage.

The learning rate decays exponentially from 1e-4 to 0 in each, the moments begin at zero, and the tokens of a batch stay
the same. The numbers stand in ``recipes/spec/pretraining.py``; ``granite41 show lce_32k --size 8b`` prints them with their
origins.
"""

from recipes.training.pretraining import stage_factory

lce_32k = stage_factory("lce_32k")
lce_128k = stage_factory("lce_128k")
lce_512k = stage_factory("lce_512k")
