"""Shared fixtures."""

from collections.abc import Callable
from typing import Any

import pytest
import warm


@pytest.fixture(scope="session")
def forked() -> Callable[..., Any]:
    """``forked(function, *args, world_size=1)``: run it in processes that have NeMo loaded (see ``warm.run``)."""
    return warm.run
