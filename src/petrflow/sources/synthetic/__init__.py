"""The synthetic door: drives through made-up streets, written as a nuScenes root.

Everything a real recording has, from one seed: six cameras and a lidar on vehicles that differ a
little, keyframes at 2 Hz with camera sweeps between them, ten detection classes that stand, park,
walk and drive, with attributes, visibility and true motion. Images are drawn from the 3D scene,
lidar points lie on its surfaces, and a box's point count is the number of points in it. Its
settings are the keys of a `kind: synthetic` data set (docs/config.md).
"""

from petrflow.sources.synthetic.generate import generate, prepare

__all__ = ["generate", "prepare"]
