"""Evaluation: suites as data, the lm-eval runner, RULER, gates and reports."""
