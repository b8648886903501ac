"""Arrays and records in, pictures and rows out."""
