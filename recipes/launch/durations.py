"""The seconds that the tasks of a chain take, relative to each other, for the time that is left.

All figures are assumed, from runs at size tiny on two cores. Only their ratios matter: the time
left is scaled by how long the finished tasks took.
"""

import math
from collections.abc import Mapping, Sequence

from recipes.registry.resolve import Recipe
from recipes.runs.task import Task
from recipes.spec.pretraining import PretrainRecipe
from recipes.spec.rl import RlRecipe
from recipes.spec.sft import SftRecipe

FLOPS_PER_SECOND = 3e10
# NeMo and lm-eval, once for all tasks, which the first one waits for
IMPORTS = 20.0
# set-up of the trainer and checkpoints
TRAINING_START = 8.0
# generated, scored and trained, in RL
SECONDS_PER_ANSWER = 0.02
SECONDS = {
    "data tiny": 8.0,
    "data made-up": 2.0,
    "data curate": 5.0,
    "data pack": 4.0,
    "import": 5.0,
    "export": 4.0,
    "merge": 3.0,
    "report": 4.0,
    "generate": 6.0,
    "eval generate": 6.0,
    "eval corpora": 60.0,
    "eval gate": 2.0,
    "eval smoke": 6.0,
    "eval chat": 8.0,
    "eval long-context": 12.0,
}
OTHER = 5.0


def expected_seconds(
    chain: Sequence[Task],
    recipes: Mapping[str, Recipe],
) -> dict[str, float]:
    """Return the expected seconds of each task of ``chain`` by its name.

    Args:
        recipes: those of the stages that the chain trains.
    """
    seconds = {task.name: _seconds(task, recipes) for task in chain}
    if chain:
        seconds[chain[0].name] += IMPORTS
    return seconds


def _seconds(task: Task, recipes: Mapping[str, Recipe]) -> float:
    recipe = recipes.get(task.name)
    if isinstance(recipe, RlRecipe):
        answers = recipe.steps.value * recipe.train_batch_size.value
        return TRAINING_START + answers * SECONDS_PER_ANSWER
    if recipe:
        return TRAINING_START + training_flops(recipe) / FLOPS_PER_SECOND
    command, *rest = task.arguments
    return SECONDS.get(command) or SECONDS.get(f"{command} {rest[0]}", OTHER)


def training_flops(recipe: PretrainRecipe | SftRecipe) -> float:
    """Return the floating-point operations of a stage: training, and a third of it to validate.

    Six per parameter and token, and for causal attention six per layer, hidden unit and token of
    the sequence (Megatron-LM, arXiv 2104.04473, appendix A).
    """
    model = recipe.model
    hidden_units = model.num_layers.value * model.hidden_size.value
    attention = hidden_units * recipe.sequence_length.value
    per_token = 6 * (model.parameter_count.value + attention)

    steps = recipe.steps.value
    # a validation computes no gradients, which are two thirds
    batches = steps + _validated_batches(recipe) / 3
    return per_token * batches * recipe.tokens.value / steps


def _validated_batches(recipe: PretrainRecipe | SftRecipe) -> float:
    """Return the global batches of all validations of a stage."""
    steps = recipe.steps.value
    if isinstance(recipe, PretrainRecipe):
        return math.ceil(steps / recipe.validate_every_steps) * recipe.validation_batches.value
    steps_per_epoch = steps / recipe.epochs.value
    held_out = math.ceil(recipe.validation_share.value * steps_per_epoch)
    return math.ceil(steps / recipe.validate_every_steps.value) * held_out
