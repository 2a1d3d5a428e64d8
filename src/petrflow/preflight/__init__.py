"""What can be known before the first job: mistakes in what a person wrote, and whether the machine
is fit for it.

For the workflow before a run starts, and for the stages before they compute. It reads the config,
model files, the names and shapes of weights and the tables of a data set. It writes nothing but its
notes of files already read, starts no job, and must not load Paddle's networks.
"""
