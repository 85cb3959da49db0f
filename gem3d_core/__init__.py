"""The method: tensors in, tensors out. No Prefect, no catalog, no path that was not given."""
