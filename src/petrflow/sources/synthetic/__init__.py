"""The synthetic door: drives through made-up streets, written as a nuScenes root.

Everything a real recording has, from one seed: six cameras and a lidar on vehicles that differ a little, keyframes at 2 Hz with camera sweeps
between them, ten detection classes that stand, park, walk and drive, with attributes, visibility and true motion. Images are drawn from the
3D scene, lidar points lie on its surfaces, and a box's point count is the number of points in it.

Settings
--------
scenes : int, default 10
    How many scenes, two at least. The first ten carry v1.0-mini's names, so that its splits apply; further ones are scene-2001, ...
keyframes : int, default 10
    Keyframes a scene, half a second apart.
image_size : [int, int], default [400, 225]
    Width and height of the images in pixels. The cameras' fields of view stay nuScenes' own.
seed : int, default 0
    Another seed, other streets, objects and vehicles.
density : float, default 1.0
    Objects on the street; 1 puts about 45 annotated ones within 55 m.
sweeps : int or bool, default 5
    Camera images between two keyframes; 5 is nuScenes' 12 Hz, 0 or false leaves keyframes only.
max_range : float, default 55.0
    Objects up to this distance (m) from the ego vehicle are annotated, those beyond are drawn only.
jpeg_quality : int, default 75
splits : {train: ..., val: ...}, default {train: mini_train, val: mini_val}
    A devkit split name or a list of scene names each. Scenes beyond mini's ten go to a named train split.
version : str, default v1.0-mini
workers : int, default one a CPU core
    Processes; the bytes do not depend on it.
"""

from petrflow.sources.synthetic.generate import DEFAULTS, generate, prepare, source_mark

__all__ = ["DEFAULTS", "generate", "prepare", "source_mark"]
