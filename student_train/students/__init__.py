"""The students: what they look at, their networks, their detection losses."""
