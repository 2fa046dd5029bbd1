"""What a fitted law says of runs that have not been made."""
