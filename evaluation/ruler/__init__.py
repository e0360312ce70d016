"""RULER: prompts of a chosen length, made offline and to the token, and metrics for the answers.

The thirteen tasks, their templates, needle counts and budgets are those of NVIDIA/RULER (arXiv
2404.06654). Modules: ``settings`` (of each task, and smaller ones for short lengths), ``corpora``
and ``question_sets`` (the texts), ``counting`` and ``tables`` (their tokens), ``builder`` (the
steps of a prompt), ``needles``, ``chains``, ``words`` and ``questions`` (the kinds of tasks),
``builders`` (the choice for a length), ``generation`` (the files), ``metrics``, and
``lm_eval_task`` (RULER inside lm-eval).
"""
