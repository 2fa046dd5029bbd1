"""One token of every sequence after another, on a GPU as a replayed CUDA graph if asked for."""

import torch
from torch import Tensor

from llama_scale.generation.kv_cache import JoinedCaches, KVCache
from llama_scale.model.llama import Llama


class Decoder:
    """Passes the newest token of each sequence through the model, with the cache of those before.

    A pass over one token is hundreds of short kernels, which a host cannot launch as fast as a GPU
    runs them. With ``cuda_graphs`` they are recorded once and replayed as one launch.

    A recording has the addresses of the tensors that it read and wrote, so a replay sees what is at those addresses
    now. Hence tokens are copied into one tensor, ``recorded_tokens``, the cache's next slot counts up in place, and the
    result is always in ``recorded_hidden``. Where the cache grows from 32 slots to 64, which are other tensors, the
    recording is dropped and the next pass makes another; where sequences leave, there is another decoder.
    """

    def __init__(self, model: Llama, cache: KVCache | JoinedCaches, cuda_graphs: bool = False) -> None:
        self.model, self.cache, self.cuda_graphs = model, cache, cuda_graphs
        self.recording: torch.cuda.CUDAGraph | None = None

    def __call__(self, tokens: Tensor) -> Tensor:
        """Return the last hidden states (B, D) after ``tokens`` (B,); with CUDA graphs the next overwrites them."""
        if self.cache.grow_if_full():
            self.recording = None
        hidden = self._replay(tokens) if self.cuda_graphs else self._pass(tokens)
        self.cache.advance()
        return hidden

    def _pass(self, tokens: Tensor) -> Tensor:
        hidden = self.model.hidden(tokens[:, None], self.cache)  # type: ignore[arg-type]  # (B, 1, D)
        return hidden[:, 0]

    def _replay(self, tokens: Tensor) -> Tensor:
        if self.recording is None:
            self.recorded_tokens = tokens.clone()  # (B,)
            # Loads kernels. It writes the slot that the replay writes again, so nothing is lost.
            self._pass(self.recorded_tokens)
            self.recording = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self.recording):
                self.recorded_hidden = self._pass(self.recorded_tokens)  # (B, D)
        self.recorded_tokens.copy_(tokens)
        self.recording.replay()
        return self.recorded_hidden
