"""`curate init`: looks at unknown data, guesses how its columns are to be read, tries it, and writes a recipe."""
