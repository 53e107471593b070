"""Devices: the mesh, several processes, compiled programs, prefetching, the memory of the host."""
