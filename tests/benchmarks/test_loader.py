"""The loader beside slices of a memory map."""

from benchmarks.loader import compare_loaders, loader_table


def test_loader_beside_a_memory_map():
    result = compare_loaders(context_length=64, batch=4, rounds=2, batches=2)
    ours, raw = result["contenders"]
    assert (ours["name"], ours["ratio"]) == ("llama_scale", 1.0)
    assert raw["million_tokens_per_second"] > 0


def test_table():
    rows = [
        {"name": "llama_scale", "million_tokens_per_second": 331.4, "ratio": 1.0},
        {"name": "np.memmap", "million_tokens_per_second": 250.0, "ratio": 1.3256},
    ]
    result = {"context_length": 2048, "batch": 64, "contenders": rows}
    assert loader_table(result).splitlines() == [
        "loader, 64 x 2,048  million tokens/s  llama_scale is",
        "llama_scale                      331           1.00x",
        "np.memmap                        250           1.33x",
    ]
