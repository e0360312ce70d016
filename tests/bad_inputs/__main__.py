"""Print the table with the sentences: ``python -m tests.bad_inputs [WORD]``."""

import sys
import tempfile
from pathlib import Path

from tests.bad_inputs import table
from tests.bad_inputs.row import run

if __name__ == "__main__":
    for row in table.rows():
        if not all(word in f"{row.name} {row.command}" for word in sys.argv[1:]):
            continue
        with tempfile.TemporaryDirectory() as folder:
            for write in row.input:
                write(Path(folder))
            outcome = run(row.command, Path(folder), row.environment)
        print(f"{row.name}\n  $ granite41 {row.command}\n  {outcome.stderr}", flush=True)
