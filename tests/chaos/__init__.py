"""The chaos suite: mixed work while a seeded schedule breaks things; then a check of it all."""
