"""What is scored: a checkpoint, a transformers folder, a completion server."""
