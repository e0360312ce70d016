"""Hugging Face folders and checkpoints: ``import``, ``export``, ``merge``, ``generate``."""

from tests.bad_inputs.row import Row

ROWS = [
    Row(
        "a model folder that is not there",
        "import --hf ./nowhere --output out",
        ["nowhere/config.json: not found"],
        slow=True,
    ),
    Row(
        "a checkpoint that is not there",
        "export --checkpoint nowhere --output out",
        ["nowhere: not found", "NeMo 2 checkpoint"],
        slow=True,
    ),
    Row(
        "a merge without weights",
        "merge --method linear --parents a b --output out",
        ["--weights or --sweep"],
    ),
    Row(
        "a continuation by a model that is not there",
        "generate nowhere",
        ["nowhere: no config.json"],
        slow=True,
    ),
]
