"""One file a stage: references in, load, one call of the core, put, references out."""
