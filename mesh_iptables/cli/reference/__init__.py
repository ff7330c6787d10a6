"""The tables in docs/reference, from the code that they describe; `scripts/reference` writes them into the pages."""
