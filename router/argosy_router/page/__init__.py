"""The page at `/`: static files, and what they show of the fleet to those who may see it."""
