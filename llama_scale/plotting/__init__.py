"""Figures as plain data, drawn by plotly and matplotlib."""
