"""Looking without writing: one problem, a profile, a preview, a plan of costs, rows of a query."""
