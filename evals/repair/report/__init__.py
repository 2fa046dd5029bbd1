"""Pictures of what a repair study found."""
