"""The simulated service itself, without any I/O: tasks, credits, limits, the ledger."""
