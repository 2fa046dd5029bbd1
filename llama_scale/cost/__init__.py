"""What a run costs, counted from its configuration: parameters, FLOPs, memory, time."""
