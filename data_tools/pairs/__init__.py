"""Pairs of prompt and completion for fine-tuning."""
