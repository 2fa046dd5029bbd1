"""Runs untrusted programs, see pool.Sandbox; empty, since the fork server imports it."""
