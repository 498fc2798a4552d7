"""Your own data: images with masks or an export of a labelling tool become a list and configurations."""
