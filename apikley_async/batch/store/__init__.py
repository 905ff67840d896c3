"""The journal: what a batch needs of a store; a file of SQLite and PostgreSQL as two."""
