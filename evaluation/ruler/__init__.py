"""RULER: prompts of a chosen length, made offline and to the token, and the metrics that score the answers.

The thirteen tasks, their templates, needle counts and budgets are those of NVIDIA/RULER (arXiv 2404.06654). Modules:
``settings`` (what each task asks, and the smaller settings for short lengths), ``builders`` (one prompt),
``generation`` (the files), ``corpora`` (the texts) and ``metrics``.
"""
