"""Fine-tuning studies: arms that differ by rank, data, language or method, planned, gathered and compared."""
