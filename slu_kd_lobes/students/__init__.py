"""What hears: encoders, and the classifier that is trained on them."""
