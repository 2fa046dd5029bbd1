"""What is read off a fit: its form, other approaches and conventions, repeats, scores, and what laws.json says."""
