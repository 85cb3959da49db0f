"""What each kind of artifact holds, as values."""
