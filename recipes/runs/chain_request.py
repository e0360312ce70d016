"""The request for a chain, as the command line gives it and a submission records it."""

from dataclasses import dataclass


@dataclass(frozen=True)
class ChainRequest:
    """What a user requests of a chain; on a cluster the paths are the cluster's.

    Attributes:
        stages: their names, in order.
        size: model size.
        overrides: ``key=value`` for every stage of the chain that has the key.
        data: folder of prepared data; None where size tiny prepares its own.
        devices: training processes, a GPU each; None for as many as hold the model once, on a
            cluster for as many as the recipe has.
        init: what the first stage starts from in place of its parent: a NeMo checkpoint, a finished
            stage's folder, or ``hf:NAME`` or ``hf:FOLDER``, which is imported first.
        evaluate: whether each stage is evaluated, and has to pass its gate.
        packed: folder of packed conversations, for supervised fine-tuning.
        prompts: folder of prompts for reinforcement learning, or of such folders by stage; None
            where size tiny prepares its own.
        reward_model, reward_model_name: of the prompts that ask for one.
        log: an experiment tracker in addition to TensorBoard, ``wandb`` or ``mlflow``.
    """

    stages: list[str]
    size: str
    overrides: list[str]
    data: str | None
    devices: int | None
    init: str | None
    evaluate: bool
    log: str | None = None
    packed: str | None = None
    prompts: str | None = None
    reward_model: str | None = None
    reward_model_name: str = ""
