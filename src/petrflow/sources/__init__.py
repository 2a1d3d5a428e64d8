"""The doors: each turns one kind of source into a nuScenes root."""
