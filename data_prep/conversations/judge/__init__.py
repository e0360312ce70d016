"""A language model as the judge of conversations: prompts, verdicts, and how well it agrees."""
