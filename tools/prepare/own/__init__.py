"""Your own data: images with masks, or with what a labelling tool wrote, become a list and configurations."""
