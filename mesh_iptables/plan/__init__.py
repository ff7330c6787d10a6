"""Rule programs, one module a dialect: settings in, ordered operations out."""
