"""A run's folders as plain files: stages, prepared data, and the commands that fill them."""
