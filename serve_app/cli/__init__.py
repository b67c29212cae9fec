"""The command line: ``python -m serve_app <command>``, one file for each family of commands."""
