"""The report of a study: figures, tables, words and the page."""
