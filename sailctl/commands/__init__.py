"""One file per subcommand: options, a config, one call into core, what the user sees."""
