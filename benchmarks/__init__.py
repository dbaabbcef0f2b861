"""What edgesdk reaches on real models, and the scripts that measured it."""
