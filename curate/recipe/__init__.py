"""Recipes: how they are read and checked, their sections, and those that come with the package."""
