"""What a recipe costs on devices that are not here: compiled for them, read, and priced."""
