"""The command line ``granite41``."""
