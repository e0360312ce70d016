"""Made-up conversations for size tiny: small tasks whose right replies follow by rule."""
