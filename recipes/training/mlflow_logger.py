"""Lightning's logger for MLflow, at the URI of this process's environment."""

import os
from collections.abc import Mapping
from typing import Any

from lightning.pytorch.loggers import MLFlowLogger


class StageMLFlowLogger(MLFlowLogger):
    """Logs metrics at whole steps: NeMo logs the step as a float, which MLflow cannot read again.

    The URI may hold a password, so it is no argument, which a recipe would show; and Lightning
    reads the environment only when it is imported.
    """

    def __init__(self, **settings: Any) -> None:
        super().__init__(tracking_uri=os.environ.get("MLFLOW_TRACKING_URI"), **settings)

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Log metrics at ``step``."""
        super().log_metrics(metrics, None if step is None else int(step))
