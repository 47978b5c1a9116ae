"""What is put in: programs at random, with errors, from packed layers, or aimed at what was not seen."""
