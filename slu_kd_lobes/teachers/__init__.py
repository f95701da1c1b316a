"""What reads: text models, their tables, and controls in their place."""
