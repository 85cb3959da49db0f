"""New masks from given ones."""
