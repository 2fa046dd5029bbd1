"""Models served by OpenAI's protocol: one decoding thread, running batches, a shelf of runs."""
