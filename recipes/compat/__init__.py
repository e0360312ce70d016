"""Every patch to a library, one module each: what it patches, in which version, and why."""
