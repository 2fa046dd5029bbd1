"""Which documents stay: quality rules, redaction, benchmark contamination."""
