"""The profiles: YAML files that are read as package data."""
