"""The assistant over a server: its page, and programs run and repaired in the sandbox."""
