"""A run as a person sees it: parameters, ledger, server, what is told."""
