"""What is the same around every stage: identity, cache, policy, progress."""
