"""Checks are printed for a reader or a program; the failed ones are on stderr too."""

import json

from recipes.common.check_result import CheckResult, print_checks

PASSED = CheckResult("tokens", True, 10**12, 10**12)
FAILED = CheckResult("memory", False, "90 GB", "80 GB", "use more GPUs")


def test_a_table_without_empty_columns(capsys) -> None:
    assert print_checks({"": [PASSED]}, as_json=False)
    printed = capsys.readouterr()
    assert printed.err == ""
    for word in ("tokens", "ok", "1T"):
        assert word in printed.out
    assert "stage" not in printed.out
    assert "reason" not in printed.out


def test_a_failed_check_is_on_stderr_too(capsys) -> None:
    assert not print_checks({"phase1": [PASSED, FAILED]}, as_json=False)
    printed = capsys.readouterr()
    assert "FAILED" in printed.out
    assert printed.err == (
        "granite41: phase1, memory FAILED: 90 GB; expected 80 GB; use more GPUs\n"
    )


def test_json_has_the_group_and_what_all_share(capsys) -> None:
    assert not print_checks({"phase1": [FAILED]}, as_json=True, size="8b")
    assert json.loads(capsys.readouterr().out) == [
        {
            "size": "8b",
            "stage": "phase1",
            "name": "memory",
            "ok": False,
            "found": "90 GB",
            "expected": "80 GB",
            "reason": "use more GPUs",
        }
    ]
