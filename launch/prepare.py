"""Prepare training data: source code to verified token shards and a tokenizer.

``lookup --data DIR --shard 0 --token 12345`` names the file that a token came from; ``pairs`` makes pairs of
documentation and code for fine-tuning.
"""

import launch  # noqa: F401, I001, before all else: Ctrl-C is one line from here on

import sys

from llama_scale.cli import parse, run_cli


EXAMPLE = "--source folder --path ~/code --name code --vocab_size 8192"
LOOKUP = "--data data/code --shard 0 --token 12345"
PAIRS = "--name python --format signature --test 500"


def main(argv: list[str] | None = None) -> None:
    """Build the data of --config, unless it is there already."""
    from data_tools.build_folder import find_finished_build
    from data_tools.lookup import LookupConfig, describe, lookup
    from data_tools.prepare import PrepareConfig, prepare
    from data_tools.report.page import build_table

    argv = sys.argv[1:] if argv is None else argv
    if argv[:1] == ["lookup"]:
        print(describe(lookup(parse(LookupConfig, "Name a token's file.", argv[1:], example=LOOKUP))))
        return
    if argv[:1] == ["pairs"]:
        from data_tools.pairs import build
        from data_tools.pairs.config import PairsConfig

        about = "Make pairs of documentation and code, for fine-tuning."
        settings = parse(PairsConfig, about, argv[1:], shipped="pairs", example=PAIRS)
        known = build.find_finished(settings)
        print(build.describe(known or build.build_pairs(settings), settings.folder))
        if known:
            print(f"{settings.folder}: made before; whether its source has changed since is not looked at")
        return
    config = parse(
        PrepareConfig,
        "Prepare training data: source code to verified token shards and a tokenizer.",
        argv,
        shipped="data",
        example=EXAMPLE,
    )
    if manifest := find_finished_build(config):
        known = f"already prepared ({manifest['fingerprint'][:12]}), nothing to do"
        print(f"{config.folder}: {known}; whether its source has changed since is not looked at")
    elif manifest := prepare(config):
        print(build_table(manifest, config.folder))
    else:
        print(f"{config.folder}: stopped after {config.until}; the same command without --until goes on from there")


if __name__ == "__main__":
    run_cli(main, resumes=True)
