"""Patches refuse another version of the library, and a name that the library does not have."""

from types import SimpleNamespace

import pytest

from recipes.compat.patching import replace, require_versions


def test_another_version_is_refused() -> None:
    with pytest.raises(RuntimeError, match=r"recipes/compat/x.py patches pytest 1.0 but [\d.]+ is"):
        require_versions({"pytest": "1.0"}, "recipes/compat/x.py")
    require_versions({"pytest": pytest.__version__}, "recipes/compat/x.py")


def test_a_name_that_is_gone_is_refused() -> None:
    library = SimpleNamespace(__name__="library", present=1)
    replace(library, "present", 2, "recipes/compat/x.py")
    assert library.present == 2
    with pytest.raises(RuntimeError, match=r"x.py patches library.absent, which is not there any"):
        replace(library, "absent", 2, "recipes/compat/x.py")
