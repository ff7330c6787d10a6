"""Words to settings, results to standard output, errors to exit status."""
