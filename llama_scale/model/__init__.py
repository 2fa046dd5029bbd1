"""The LLaMA model, its loss, and its conversion to and from transformers."""
