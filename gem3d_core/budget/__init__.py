"""What a network costs, and what fits into a memory budget."""
