"""From ready to settled: claim, compose, send, record; one lane for each account."""
