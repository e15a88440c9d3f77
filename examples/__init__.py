"""Code a user might write around bevcache; run from the repository's root."""
