"""What is minimised: terms of the loss, distances, and their weights."""
