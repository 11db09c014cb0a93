"""What a run will take, told from its config alone: work, memory, disk and time, before anything expensive begins."""
