"""Generate, look at the errors, repair: whether that pays, and against what."""
