"""Documents to token shards: fill-in-the-middle, packing, encoding."""
