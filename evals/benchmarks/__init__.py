"""The programming benchmarks: HumanEval, MBPP, APPS."""
