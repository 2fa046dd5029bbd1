"""Checkpoints: folders that are whole or absent, how training writes them, export."""
