"""Recipe for the models and texts that ship inside the package."""
