"""`prm serve`: `rows` reads requests, `scorer` scores and batches them, `app` answers over HTTP, `server` runs it."""
