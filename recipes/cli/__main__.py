import os
import sys
from pathlib import Path

from recipes.common.environment import USER_ERROR_MARKER

try:
    from recipes.cli.main import main
except ModuleNotFoundError as error:
    # the interpreter of a node may have nothing installed, not even what this sentence is printed
    # with elsewhere
    print(
        f"granite41: {sys.executable} on {os.uname().nodename} lacks the package {error.name}; "
        f"install requirements.txt into it, or name another interpreter",
        file=sys.stderr,
    )
    if marker := os.environ.get(USER_ERROR_MARKER):
        Path(marker).touch()
    sys.exit(2)

if __name__ == "__main__":
    main()
