"""The only package that speaks SQL: queue, directory, outbox and archive on SQLite and PostgreSQL."""
