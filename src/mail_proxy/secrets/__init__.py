"""What is kept secret, and how: sealed texts in the database, the key that opens them, tokens."""
