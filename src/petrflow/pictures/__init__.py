"""Functions on images: reading with the one check of whether a file is whole, resizing, drawing, and
pictures as a video.

For every package above. They take arrays, paths and plain numbers, and must not know the config, a
data set or a model. A resized picture must have the very bytes that Pillow gives.
"""
