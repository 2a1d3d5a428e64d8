"""The computer that petrflow runs on: its device, memory, cores and threads, and the processes that
compute together.

For every package above. Nothing here knows the config's layout, a model or a data set: functions
take plain values such as a device's name. Paddle is imported inside functions only where it is
needed.
"""
