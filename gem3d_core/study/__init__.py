"""The paper's rows, orderings and claims: nothing that a user's own run reads or prints."""
