"""What is measured of the method on a machine: how fast, in how much memory, and how near to the truth."""
