"""llama.cpp's decoding, asked in lines of JSON: python llamacpp_worker.py MODEL.gguf SETTINGS.

It runs in an environment of its own, which has llama-cpp-python and nothing of this project. Each line on standard
input is a request and is answered by a line: {"logits": ids} by the logits after the last id, {"draw": contexts} by the
tokens that were drawn for each.
"""

import ctypes
import json
import sys

import llama_cpp as lib

TYPES = {"fp32": 0, "bf16": 30}  # of ggml, for keys and values


@lib.llama_log_callback
def silent(level: int, text: bytes, data: ctypes.c_void_p) -> None:
    """Say nothing: standard output is for answers."""


class Worker:
    """A model with room for ``rows`` sequences of ``length`` tokens.

    ``shared``: one cache for all sequences, in which the samples of a prompt have its tokens once; else one for each.
    """

    def __init__(self, model: str, rows: int, length: int, threads: int, precision: str, shared: bool) -> None:
        settings = lib.llama_model_default_params()
        settings.n_gpu_layers = 0
        self.model = lib.llama_model_load_from_file(model.encode(), settings)
        if not self.model:
            raise SystemExit(f"{model}: llama.cpp cannot read it")
        options = lib.llama_context_default_params()
        options.n_ctx, options.n_batch, options.n_ubatch = rows * length, max(512, length), 512
        options.n_seq_max, options.kv_unified = rows, shared
        options.n_threads = options.n_threads_batch = threads
        options.type_k = options.type_v = TYPES[precision]
        self.context = lib.llama_init_from_model(self.model, options)
        if not self.context:
            raise SystemExit(f"{model}: llama.cpp cannot make room for {rows} sequences of {length} tokens")
        self.memory = lib.llama_get_memory(self.context)
        self.vocab = lib.llama_vocab_n_tokens(lib.llama_model_get_vocab(self.model))
        self.batch = lib.llama_batch_init(max(rows, length), 0, 1)
        self.room = max(rows, length)

    def decode(self, tokens: list[int], places: list[int], sequences: list[int], told: list[int]) -> None:
        """Pass tokens through the model, each at a place of its sequence; of those ``told`` there are logits then."""
        assert len(tokens) <= self.room
        batch = self.batch
        batch.n_tokens = len(tokens)
        for i, (token, place, sequence) in enumerate(zip(tokens, places, sequences, strict=True)):
            batch.token[i], batch.pos[i], batch.n_seq_id[i], batch.seq_id[i][0] = token, place, 1, sequence
            batch.logits[i] = 0
        for i in told:
            batch.logits[i] = 1
        if lib.llama_decode(self.context, batch) != 0:
            raise SystemExit("llama.cpp failed to decode")

    def logits(self, ids: list[int]) -> list[float]:
        """Return the logits after the last of ``ids``."""
        lib.llama_memory_clear(self.memory, False)
        self.decode(ids, list(range(len(ids))), [0] * len(ids), [len(ids) - 1])
        values = lib.llama_get_logits_ith(self.context, len(ids) - 1)
        return [values[i] for i in range(self.vocab)]

    def draw(self, ids: list[int], samples: int, most: int, eos: int, chains: list[int]) -> list[list[int]]:
        """Return the tokens of each sample of a prompt, which is read once."""
        lib.llama_memory_clear(self.memory, False)
        last = len(ids) - 1
        self.decode(ids, list(range(len(ids))), [0] * len(ids), [last])
        for sample in range(1, samples):
            lib.llama_memory_seq_cp(self.memory, 0, sample, -1, -1)
        drawn: list[list[int]] = [[] for _ in range(samples)]
        rows, outputs = list(range(samples)), [last] * samples
        for step in range(most):
            tokens = [
                lib.llama_sampler_sample(chains[row], self.context, at) for row, at in zip(rows, outputs, strict=True)
            ]
            going_on = [(row, token) for row, token in zip(rows, tokens, strict=True) if token != eos]
            for row, token in going_on:
                drawn[row].append(token)
            if not going_on or step == most - 1:
                break
            rows = [row for row, _ in going_on]
            outputs = list(range(len(rows)))
            self.decode([token for _, token in going_on], [len(ids) + step] * len(rows), rows, outputs)
        return drawn


def chain(temperature: float, top_p: float, seed: int) -> int:
    """Return llama.cpp's sampler of a row: temperature, then the nucleus, then a draw; or the likeliest."""
    made = lib.llama_sampler_chain_init(lib.llama_sampler_chain_default_params())
    if temperature == 0:
        lib.llama_sampler_chain_add(made, lib.llama_sampler_init_greedy())
        return made
    lib.llama_sampler_chain_add(made, lib.llama_sampler_init_temp(temperature))
    if top_p < 1:
        lib.llama_sampler_chain_add(made, lib.llama_sampler_init_top_p(top_p, 1))
    lib.llama_sampler_chain_add(made, lib.llama_sampler_init_dist(seed))
    return made


def main() -> None:
    """Answer until standard input ends."""
    lib.llama_log_set(silent, None)
    lib.llama_backend_init()
    settings = json.loads(sys.argv[2])
    samples, sampling = settings["samples"], settings["sampling"]
    engine = settings["engine"]
    worker = Worker(sys.argv[1], samples, **engine)
    chains = [chain(sampling["temperature"], sampling["top_p"], sampling["seed"] + row) for row in range(samples)]
    print(json.dumps({"version": lib.__version__}), flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        if "logits" in request:
            answer = worker.logits(request["logits"])
        else:
            most, eos = sampling["max_new_tokens"], settings["eos"]
            answer = [worker.draw(ids, samples, most, eos, chains) for ids in request["draw"]]
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
