"""What the tests of evaluation share."""

import pytest

from evaluation.sandbox import run_python
from recipes.common.errors import UserError


@pytest.fixture(scope="session")
def namespaces() -> None:
    """Skip where the kernel or a container allows no namespaces, and so no code of a model."""
    try:
        run_python("", seconds=60, memory_bytes=2**30)
    except UserError as error:
        pytest.skip(str(error))
