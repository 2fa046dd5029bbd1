"""Training steps side by side with peers, and what the trainer costs."""
