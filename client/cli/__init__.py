"""The command line: `main` gathers the commands; each command's module is named after it."""
