"""What the tests of evaluation share."""

import pytest

from evaluation.sandbox import require_sandbox
from recipes.common.errors import UserError


@pytest.fixture(scope="session")
def namespaces() -> None:
    """Skip where the kernel or a container allows no namespaces, and so no code of a model."""
    try:
        require_sandbox()
    except UserError as error:
        pytest.skip(str(error))
