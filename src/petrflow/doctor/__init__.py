"""The doctor: whether the labels, the calibration and the images of a nuScenes root agree.

For ``petrflow.stages.doctor`` and for the doors' tests, by :func:`petrflow.doctor.examine.examine`.
It must not change the data set or ask which door made it: it writes its report and its pictures
into the folder it is given, and names the setting that mends what it found.
"""
