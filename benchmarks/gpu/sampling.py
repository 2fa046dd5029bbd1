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
    """Sample from random weights with and without CUDA graphs, beside the peers."""
    plan = plan_for(job.device, job.peers)
    folder = token_folder(job, plan.data)
    vocab_size = read_manifest(folder)["tokenizer"]["vocab_size"]
    config = GenerateBenchmark(
        model=load_size(plan.sampling["size"], **plan.model | {"vocab_size": vocab_size}),
        tokenizer=str(folder / "tokenizer.model"),
        device=job.device,
        peers="together" if "transformers" in job.peers else "",
        cuda_graphs=job.device == "cuda",
        **plan.sampling,
    )
    result = run_generate(config)
    for row in result.pop("contenders"):
        record.add(**row)
    record.note(**result)
