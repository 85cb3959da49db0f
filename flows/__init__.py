"""The DAGs and the command line. No arithmetic."""
