"""What a run would do, how long it takes and how much memory it holds."""
