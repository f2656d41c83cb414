"""The routes, a file for each noun, with the models of their bodies."""
