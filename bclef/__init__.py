"""From a list of species to a bird-sound classifier that runs on a plain CPU."""
