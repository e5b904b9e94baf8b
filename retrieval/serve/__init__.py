"""Search for people and programs: a web page, and an API over HTTP."""
