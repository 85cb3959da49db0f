"""The command line `gem3d`."""
