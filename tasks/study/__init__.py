"""The paper's tables from what was measured of each system."""
