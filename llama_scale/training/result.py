"""result.json: the one row that a finished run is to a study."""

from typing import Any

from llama_scale.checkpoint.folder import weights_sha256
from llama_scale.cost.accounting import count_parameters, flops_per_token
from llama_scale.errors import InputError
from llama_scale.files import read_jsonl, write_json
from llama_scale.training.run_plan import Run


def write_result(run: Run) -> dict[str, Any]:
    """Write result.json, the run's one row, from its last metrics row; return it."""
    config, recipe = run.config, run.recipe
    name = f"step-{recipe.steps:08d}"
    count = count_parameters(config.model)
    last = (read_jsonl(run.folder / "metrics.jsonl", required=["step"]) or [{}])[-1]
    if not last.keys() >= {"loss", "skips", "val_loss", "val_bits_per_byte"}:
        problem = "its last row has no validation; delete the newest checkpoint, then run the same command again"
        raise InputError(f"{run.folder / 'metrics.jsonl'}: {problem}")
    result = {
        "run": run.folder.name,
        "group": config.group,
        "size": config.size,
        "seed": config.seed,
        "data_seed": config.order_seed,
        "n_params": count.total,
        "n_params_non_embedding": count.non_embedding,
        "n_params_matmul": count.matmul,
        "tokens": recipe.tokens,
        "data_tokens": run.tokens.n_tokens,
        "epochs": recipe.tokens / run.tokens.n_tokens,
        "steps": recipe.steps,
        "batch_tokens": recipe.batch_tokens,
        "lr": recipe.lr,
        "warmup_steps": recipe.warmup_steps,
        "schedule": config.optim.schedule,
        "annealed": config.optim.schedule != "constant",
        "parent": recipe.parent,
        "skips": last["skips"],
        "flops": recipe.tokens * flops_per_token(config.model),
        "flops_full": recipe.tokens * flops_per_token(config.model, causal=False),
        "flops_6nd": 6 * count.non_embedding * recipe.tokens,
        "train_loss": last["loss"],
        "val_loss": last["val_loss"],
        "val_bits_per_byte": last["val_bits_per_byte"],
        "data_fingerprint": run.tokens.manifest["fingerprint"],
        "tokenizer_fingerprint": run.tokens.tokenizer_fingerprint,
        "checkpoint": f"checkpoints/{name}",
        "weights_sha256": weights_sha256(run.folder / "checkpoints" / name),
    }
    write_json(run.folder / "result.json", result, sealed=True)
    return result
