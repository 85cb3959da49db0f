"""What a machine offers: files that are whole or absent, processes, devices, memory, read-ahead, downloads."""
