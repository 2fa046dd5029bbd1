"""A small contender and a worker that has been measured."""

from dataclasses import asdict

from benchmarks.training.interleave import Worker
from benchmarks.training.worker import TrainingJob
from llama_scale.config import ModelConfig

TINY = ModelConfig(d_model=32, n_layers=2, n_heads=2, n_kv_heads=1, d_ff=64, vocab_size=96, context_length=32)
JOB = TrainingJob(peer="llama_scale", model=asdict(TINY), micro_batch=2, threads=1)


def measured_worker(name="llama_scale", seconds=(1.0, 2.0), losses=(3.0, 2.9), job=JOB):
    worker = Worker(name, job, None, None)
    worker.seconds, worker.losses, worker.memory = list(seconds), list(losses), 7
    return worker
