"""Convert a checkpoint: python launch/export.py CHECKPOINT --to hf --out DIR, or --from hf."""

import launch  # noqa: F401, I001, before all else: Ctrl-C is one line from here on

import sys
from dataclasses import dataclass
from typing import Literal

from llama_scale.cli import parse, run_cli
from llama_scale.errors import UserError


EXAMPLE = "runs/M1-201k-seed0 --to hf --out exported"


@dataclass(frozen=True)
class Export:
    """A conversion between our checkpoints and the transformers layout.

    Args:
        checkpoint: Checkpoint, run or transformers folder to read.
        out: Folder to write; it must be empty or absent.
        to: Layout to write.
        origin: Layout to read; written --from hf.
    """

    checkpoint: str
    out: str
    to: Literal["hf"] | None = None
    origin: Literal["hf"] | None = None


def main(argv: list[str] | None = None) -> None:
    """Convert in the direction that --to or --from names."""
    argv = [
        "--origin" + a.removeprefix("--from") if a.partition("=")[0] == "--from" else a
        for a in (sys.argv[1:] if argv is None else argv)
    ]
    config = parse(Export, "Convert a checkpoint to or from transformers.", argv, "checkpoint", example=EXAMPLE)
    if (config.to is None) == (config.origin is None):
        raise UserError("to: pass one of --to hf and --from hf")

    from llama_scale.checkpoint.export import export_checkpoint, import_checkpoint

    convert = export_checkpoint if config.to else import_checkpoint
    convert(config.checkpoint, config.out)
    print(f"{config.checkpoint} -> {config.out}")


if __name__ == "__main__":
    run_cli(main)
