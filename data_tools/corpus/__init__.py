"""The collected documents on disk, their records, and their split."""
