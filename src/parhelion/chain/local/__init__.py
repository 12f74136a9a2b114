"""Embedded chains: real engines behind real JSON-RPC, each a process of its own, always LOCAL."""
