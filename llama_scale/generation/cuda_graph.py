"""One token of every line after another, on a GPU as a replayed CUDA graph if asked for."""

import torch
from torch import Tensor

from llama_scale.generation.kv_cache import KVCache
from llama_scale.model.llama import Llama


class Decoder:
    """Passes the newest token of each line through the model, with the cache of those before.

    A pass over one token is hundreds of short kernels, which a host cannot launch as fast as a GPU
    runs them. With ``cuda_graphs`` they are recorded and replayed as one; the recording is made
    anew when lines leave or the cache grows.
    """

    def __init__(self, model: Llama, cache: KVCache, cuda_graphs: bool = False) -> None:
        self.model, self.cache, self.cuda_graphs = model, cache, cuda_graphs
        self.graph: torch.cuda.CUDAGraph | None = None

    def select(self, lines: Tensor) -> None:
        """Keep the given lines only."""
        self.cache.select(lines)
        self.graph = None

    def __call__(self, tokens: Tensor) -> Tensor:
        """Return the last hidden state (B, D) of each line after its token in ``tokens`` (B,)."""
        if self.cache.make_room():
            self.graph = None
        hidden = self._replay(tokens) if self.cuda_graphs else self._pass(tokens)
        self.cache.advance()
        return hidden

    def _pass(self, tokens: Tensor) -> Tensor:
        return self.model.hidden(tokens[:, None], self.cache)[:, 0]

    def _replay(self, tokens: Tensor) -> Tensor:
        if self.graph is None:
            self.tokens = tokens.clone()
            self._pass(self.tokens)  # loads kernels; changes nothing that a second pass would see
            self.graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self.graph):
                self.hidden = self._pass(self.tokens)
        self.tokens.copy_(tokens)
        self.graph.replay()
        return self.hidden
