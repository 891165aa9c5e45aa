"""What is true of mail, queues and reports without any I/O: pure values and decisions, standard library only."""
