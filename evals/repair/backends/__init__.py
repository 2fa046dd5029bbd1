"""Models that answer a pipeline's messages: a checkpoint, a transformers folder, a server, a log of replies."""
