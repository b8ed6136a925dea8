"""How fast networks run here. Nothing is imported: the processes that measure begin here too."""
