"""Metrics of scored samples."""
