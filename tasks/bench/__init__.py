"""`gem3d bench`: measurements on the models of a catalog, and of the catalog itself."""
