"""Code of a model's or a tokenizer's folder: nothing in this project may let it run."""

import ast
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_every_load_by_transformers_forbids_code() -> None:
    calls = []
    for room in ("recipes", "data_prep", "evaluation", "slurm", "benchmarks"):
        for path in sorted((ROOT / room).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                    calls.append((path, node))

    loads = [call for call in calls if call[1].func.attr == "from_pretrained"]
    assert loads
    for path, call in loads:
        # without it, transformers asks on standard input
        settings = {word.arg: ast.unparse(word.value) for word in call.keywords}
        assert settings.get("trust_remote_code") == "False", f"{path}:{call.lineno}"
