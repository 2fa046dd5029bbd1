"""What a person types: each module is a command, and main.py is the console script of them all."""
