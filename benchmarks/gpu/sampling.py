"""Step 4: tokens sampled a second, eager and with CUDA graphs, beside transformers."""

from benchmarks.generate import GenerateBenchmark
from benchmarks.generate import run as run_generate
from benchmarks.gpu.plan import plan_for
from benchmarks.gpu.record import Record
from benchmarks.gpu.settings import StepJob
from benchmarks.gpu.tokens import token_folder
from llama_scale.config import load_size
from llama_scale.data.shards import read_manifest


def run(job: StepJob, record: Record) -> None:
    """Sample without CUDA graphs beside the peers, then with them, from random weights."""
    plan = plan_for(job.device, job.peers)
    folder = token_folder(job, plan.data)
    vocab_size = read_manifest(folder)["tokenizer"]["vocab_size"]
    model = load_size(plan.sampling["size"], **plan.model | {"vocab_size": vocab_size})
    peers = "together" if "transformers" in job.peers else ""
    for cuda_graphs in [False, True] if job.device == "cuda" else [False]:
        config = GenerateBenchmark(
            model=model,
            tokenizer=str(folder / "tokenizer.model"),
            device=job.device,
            peers="" if cuda_graphs else peers,
            cuda_graphs=cuda_graphs,
            **plan.sampling,
        )
        result = run_generate(config)
        contenders = result.pop("contenders")
        record.note(**result)
        for row in contenders:
            if not cuda_graphs or "graphs" in row["name"]:
                record.add(**row)
