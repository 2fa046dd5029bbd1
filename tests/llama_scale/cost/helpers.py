"""What the tests of costs share."""

from llama_scale.config import TrainConfig, load_size
from llama_scale.cost.dry_run import RunCost, dry_run
from llama_scale.training.recipe import resolve


def run_cost(size: str, hardware: str, mfu: float | None = None, **fields) -> RunCost:
    """Return the cost of a run of the named size, with these settings."""
    config = TrainConfig(load_size(size), size=size, **fields)
    return dry_run(config, resolve(config), hardware, mfu)
