"""Pretraining: the plan of a run, the optimizer, the trainer and its callbacks."""
