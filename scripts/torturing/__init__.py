"""What `scripts/torture.py` does to runs: kills, damages, full disks, two at once."""
