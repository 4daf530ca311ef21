"""What a person triggers."""
