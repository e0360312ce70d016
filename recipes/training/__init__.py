"""What turns a recipe of the plain layer into a running NeMo training job."""
