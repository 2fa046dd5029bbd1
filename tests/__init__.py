"""Tests, folder by folder as the source."""
