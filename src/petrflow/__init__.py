"""petrflow."""
