"""Scaling laws fitted to the points of a study; no module here needs torch."""
