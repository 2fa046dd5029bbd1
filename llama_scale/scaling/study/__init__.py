"""Scaling studies: their runs planned, carried out and collected."""
