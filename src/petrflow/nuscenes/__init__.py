"""What nuScenes fixes: names of channels, tables, categories and classes, splits, and how the tables
of a root are read and written.

For the doors, the annotation store and every package above them, which take these names from here
and repeat none. It must not know a door, a model or a setting of a run, and reads no image.
"""
