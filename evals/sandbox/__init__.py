"""Runs untrusted programs, see pool.Sandbox; empty, since the zygote imports it."""
