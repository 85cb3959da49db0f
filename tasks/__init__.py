"""The stages as tasks: references in, load, one call of the core, put, references out."""
