"""What tests run against: real servers that start and end with them."""
