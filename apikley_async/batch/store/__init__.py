"""The journal: what a batch needs of a store, and SQLite as one."""
