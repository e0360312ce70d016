"""Types and values that all stages share; imports no third-party package."""
